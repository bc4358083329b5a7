import json

import pytest

from larq_seresnet.training import callbacks, config


@pytest.fixture(scope="session")
def write_log():
    """Writes the log and config of a `Run` that never was, one error in every row."""

    def write(logs, run, rows, error=0.5, **changed):
        logs.mkdir(exist_ok=True)
        arguments = {**vars(config.Config(**run.arguments)), **changed}
        facts = {"train_images": 50000, "test_images": 10000}
        (logs / f"{run.name}.json").write_text(json.dumps({"arguments": arguments, **facts}))
        lines = [",".join(callbacks.LOG_COLUMNS)]
        lines += [f"{epoch + 1},0.01,1,{error},1,{error},9,9,cifar10" for epoch in range(rows)]
        (logs / f"{run.name}.csv").write_text("\n".join(lines) + "\n")

    return write
