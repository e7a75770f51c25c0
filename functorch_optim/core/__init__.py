"""The base of the algorithms: the contract of a rule, and the lift that turns a rule into a transformation."""
