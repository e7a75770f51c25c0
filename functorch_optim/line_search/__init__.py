"""Line searches, shared by the quasi-Newton algorithms: each evaluates the objective in one place of one loop."""
