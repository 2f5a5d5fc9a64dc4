"""A network of images alone, to be probed and fine-tuned: any tower, with CLIP's images."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict({"method": "vision", "model": {}})
