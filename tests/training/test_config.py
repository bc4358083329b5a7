import argparse
import dataclasses
import inspect
import json

import pytest

from larq_seresnet import SEResNet14
from larq_seresnet.training import config, flags


def test_model_flags_have_the_models_defaults():
    parameters = inspect.signature(SEResNet14).parameters
    arguments = config.Config().model_arguments()
    assert arguments.pop("input_shape") == (32, 32, 3)  # what None stands for
    assert arguments == {name: parameters[name].default for name in arguments}
    of_a_classifier = {"include_top", "pooling", "num_classes"}
    given_by_data_or_code = {"input_shape", "input_tensor", "weights", "name"}
    assert set(arguments) == set(parameters) - of_a_classifier - given_by_data_or_code


def test_flags_are_kebab_case_and_say_their_default():
    parser = argparse.ArgumentParser()
    flags.add_to(parser)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(config.Config):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "--fmb, --no-fmb" in text
    assert "channels of the three stages (default: 16 32 64)" in text
    assert "binarise the attention values (Eq. 5 and 6) (default: on)" in text


def test_flags_make_a_config():
    parser = argparse.ArgumentParser()
    flags.add_to(parser)
    given = parser.parse_args(
        "--no-fmb --attention none --filters 1 2 3 --gate-epochs 4 5 --recipe plain".split()
    )
    settings = config.Config(**vars(given))
    assert (settings.fmb, settings.attention, settings.filters) == (False, None, (1, 2, 3))
    assert settings.gate_epochs == (4, 5)
    assert settings.learning_rate == config.RECIPES["plain"].learning_rate
    assert settings.kernel_rate == 0.0


def test_a_recipe_is_the_default_of_its_fields():
    for name, recipe in config.RECIPES.items():
        settings = vars(config.Config(recipe=name))
        assert {field: settings[field] for field in vars(recipe)} == vars(recipe)
    settings = config.Config(batch_size=64)
    assert settings.batch_size == 64
    assert settings.changed() == {"batch_size": 64, "recipe": "fast", "epochs": 10, "seed": 0}


def test_flags_are_read_back():
    parser = argparse.ArgumentParser()
    flags.add_to(parser)
    settings = config.Config(attention=None, filters=(1, 2, 4), fmb=False, recipe="plain")
    words = flags.words(settings.changed())
    assert words[:2] == ["--no-fmb", "--attention"]
    assert config.Config(**vars(parser.parse_args(words))) == settings


def test_a_path_with_a_space_is_one_word():
    assert flags.words({"dataset": "my flowers", "filters": (4, 8)}) == [
        *("--dataset", "my flowers", "--filters", "4", "8"),
    ]


def test_save_and_load(tmp_path):
    settings = config.Config(filters=(1, 2, 3), learning_rate=0.5, attention=None)
    settings.save(tmp_path, commit="abc")
    assert config.load(tmp_path) == (settings, {"commit": "abc"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs` must be positive, received 0"),
        ({"batch_size": -1}, "`batch_size` must be positive, received -1"),
        ({"limit_train": 0}, "`limit_train` must be positive, received 0"),
        ({"learning_rate": -0.1}, "`learning_rate` must be positive, received -0.1"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be positive, received nan"),
        ({"kernel_rate": -0.1}, "`kernel_rate` must be 0 or more, received -0.1"),
        ({"crop": 32}, r"`crop` must be less than the sides of `input_shape`, .* received 32"),
        ({"teacher_temperature": 0.0}, "`teacher_temperature` must be positive, received 0.0"),
        ({"relaxation": 1.5}, "`relaxation` must be from 0 to 1, received 1.5"),
        ({"seed": -1}, r"`seed` must be from 0 to 2\*\*31 - 1, received -1"),
        ({"gate_epochs": (1, 11)}, "`gate_epochs` must be from 1 to `epochs`, 10, received 11"),
        ({"recipe": "slow"}, "`recipe` must be one of 'plain', 'fast', received 'slow'"),
        ({"schedule": "cosine"}, "`schedule` must be one of .*, received 'cosine'"),
        ({"compute_dtype": "float16"}, "`compute_dtype` must be one of .*, received 'float16'"),
        ({"input_shape": (32, 32, 1)}, r"height, width and 3 .* received \(32, 32, 1\)"),
        ({"input_shape": (0, 32, 3)}, r"height, width and 3 .* received \(0, 32, 3\)"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        config.Config(**arguments)


def test_what_a_config_lacks_is_what_was_done_before(tmp_path):
    """Logs stay as they were written when an option comes, whatever its default."""
    config.Config().save(tmp_path)
    content = json.loads((tmp_path / config.CONFIG_FILE).read_text())
    assert content["arguments"].pop("relaxation") == 0.8
    (tmp_path / config.CONFIG_FILE).write_text(json.dumps(content))
    assert config.load(tmp_path)[0].relaxation == 0.0
    del content["arguments"]["epochs"]
    (tmp_path / config.CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it lacks epochs"):
        config.load(tmp_path)


def test_inputs_harden_only_where_they_are_1_bit_and_something_hardens():
    """So that old runs of networks without 1-bit inputs are the same runs today."""
    assert config.Config(precision="w1a1").relaxed_inputs
    assert not config.Config(precision="w1a1", recipe="plain").relaxed_inputs
    assert not config.Config().relaxed_inputs
    assert "relaxed_inputs" not in config.Config(precision="w1a1").changed()
    assert config.Config(precision="w1a1").changed()["precision"] == "w1a1"


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"arguments": {"optimizer": "sgd"}})])
def test_a_foreign_config_file_is_refused(tmp_path, content):
    (tmp_path / config.CONFIG_FILE).write_text(content)
    with pytest.raises(ValueError, match="was not written by this version"):
        config.load(tmp_path)


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    ['"text"', "[]", "[" * 10**5, '{"arguments": []}', '{"arguments": {"input_shape": []}}'],
)
def test_a_config_of_another_form_is_refused_by_name(tmp_path, content):
    config.Config().save(tmp_path)
    path = tmp_path / config.CONFIG_FILE
    if content.startswith('{"arguments": {'):
        arguments = json.loads(path.read_text())["arguments"]
        content = json.dumps({"arguments": arguments | json.loads(content)["arguments"]})
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config.json was not written by this version of train"):
        config.load(tmp_path)


def test_weights_that_were_pruned_twice_are_of_the_run(tmp_path):
    config.Config(seed=1).save(tmp_path)
    twice = tmp_path / config.PRUNED / config.PRUNED
    assert config.of_weights(twice / config.WEIGHTS_FILE).seed == 1


def test_weights_of_a_run_that_is_called_pruned_are_its_own(tmp_path):
    """Not of the run around it, whose pruned weights lie in a folder of that name."""
    folder = tmp_path / config.PRUNED
    folder.mkdir()
    for run_dir, seed in ((tmp_path, 1), (folder, 2)):
        config.Config(seed=seed).save(run_dir)
        assert config.of_weights(folder / config.WEIGHTS_FILE).seed == seed
