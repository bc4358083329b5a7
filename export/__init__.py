"""From a trained SEResNet14 to a verified flatbuffer: the command line is convert.py."""
