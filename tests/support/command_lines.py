"""What a command says of a wrong command line, without running anything."""

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from nas.config import conf_folder, explain, register, settings_from
from nas.config.verbs import VERBS
from nas.errors import NasError


def answer(verb, words):
    """The line that ``nas-VERB`` answers to ``words``, as in nas.cli.entry; empty if nothing is wrong with them."""
    register(verbs=[verb])
    with initialize_config_dir(conf_folder(), version_base="1.3"):
        try:
            settings_from(compose(verb, words), type(VERBS[verb]))
        except NasError as error:
            return str(error)
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            return explain(error, words)
    return ""
