"""What the algorithms rest on: the contract of a rule, and the lift that makes a transformation of one."""
