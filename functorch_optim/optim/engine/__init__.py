"""What an optimizer asks of an algorithm: one protocol, two engines, by parameter and by tree."""
