"""All that Hydra keeps to itself and this program needs, in one place: what another version of Hydra may change."""

import hydra
import hydra.version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser

__all__ = [
    "BasicLauncher",
    "BasicSweeper",
    "Callbacks",
    "ConfigLoaderImpl",
    "Hydra",
    "create_config_search_path",
    "get_args_parser",
    "take_newest_defaults",
]


def take_newest_defaults() -> None:
    """Hydra 1.3 can behave as older versions did and wants a word on it; later ones cannot, and warn of the word."""
    if hydra.__version__.startswith("1.3."):
        hydra.version.setbase("1.3")
