"""Training SEResNet14: the command line is train.py."""
