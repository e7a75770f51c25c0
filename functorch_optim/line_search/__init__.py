"""Line searches for the quasi-Newton algorithms: objects that see only scalars, and the one loop that runs them."""
