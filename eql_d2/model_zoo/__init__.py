"""This project's configs by name, in a clone and in a wheel alike; the names of the functions are Detectron2's."""

from eql_d2.model_zoo.configs import get, get_config, get_config_file

__all__ = ["get", "get_config", "get_config_file"]
