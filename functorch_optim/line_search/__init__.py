"""Line searches of the quasi-Newton algorithms: objects that know scalars only, and the one loop that runs them."""
