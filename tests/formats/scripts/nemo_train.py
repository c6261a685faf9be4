"""NeMo: archives that its `SaveRestoreConnector` makes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import absent
import torch
from common import State, loads, main, one_step, small_net
from omegaconf import OmegaConf

absent.stand_in("onnx", "aistore", "text_unidecode", "wrapt", "smart_open", "nv_one_logger", "numba", "tensorboard")

from nemo.core import ModelPT  # noqa: E402
from nemo.core.connectors.save_restore_connector import SaveRestoreConnector  # noqa: E402


class Net(ModelPT):
    def __init__(self, cfg, trainer=None) -> None:
        super().__init__(cfg=cfg, trainer=trainer)
        self.net = small_net()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images)

    def setup_training_data(self, train_data_config) -> None:
        return

    def setup_validation_data(self, val_data_config) -> None:
        return

    @classmethod
    def list_available_models(cls) -> None:
        return


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    model = Net(OmegaConf.create({"sample_rate": 16000}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(4):
        one_step(model, optimizer)
        model.save_to(str(folder / f"net--epoch={epoch}.nemo"))


def states(folder: Path) -> list[State]:
    # What `restore_from` does with the weights; it makes only classes of NeMo itself.
    found = []
    for epoch in range(4):
        with tempfile.TemporaryDirectory() as home:
            connector = SaveRestoreConnector()
            connector._unpack_nemo_file(str(folder / f"net--epoch={epoch}.nemo"), home)
            found.append(connector._load_state_dict_from_disk(str(Path(home) / connector.model_weights_ckpt)))
    return found


def use(folder: Path, result: Path) -> None:
    loads(Net(OmegaConf.create({"sample_rate": 16000})), result)


if __name__ == "__main__":
    main(write, states, use)
