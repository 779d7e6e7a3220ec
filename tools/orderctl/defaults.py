"""Which local cloud a command means where no option names one, and the port that it starts on at first."""

DEFAULT_NAME = "default"
DEFAULT_PORT = 4566
