"""Formats that Ladle does not read: what they are called, and the command that turns one into what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

TO_SAFETENSORS = "safetensors.numpy.save_file({}, 'FILE.safetensors')"


@dataclass(frozen=True, kw_only=True)
class OtherFormat:
    name: str
    convert: str = ""
    """Python that converts it, with `FILE` or `FOLDER` for its path. Empty where there is no way back."""
    no_way: str = "it is made for running a model. Take the checkpoints that training saved"

    @property
    def reason(self) -> str:
        """For people, after its name."""
        # Not `capitalize`, which makes all other letters small, those of a command too.
        no_way = self.no_way[:1].upper() + self.no_way[1:]
        what_to_do = f"Convert it in Python: `{self.convert}`" if self.convert else no_way
        return f"in {self.name} format, which Ladle does not read. {what_to_do}"


KERAS = OtherFormat(
    name="Keras",
    convert="os.environ['KERAS_BACKEND'] = 'torch'; import keras; "
    "torch.save(keras.saving.load_model('FILE').state_dict(), 'FILE.pt')",
)
KERAS_WEIGHTS = OtherFormat(
    name="Keras",
    convert="os.environ['KERAS_BACKEND'] = 'torch'; import keras; model = build_your_model(); "
    "model.load_weights('FILE'); torch.save(model.state_dict(), 'FILE.pt')",
)
"""Weights without the model."""
WITH_TRANSFORMERS_4 = (
    "transformers 4 is the last one that reads it. There, with the class that `architectures` in its `config.json` "
    "names, `CLASS.from_pretrained('FOLDER', {}=True).save_pretrained('NEW')` converts it"
)
TRANSFORMERS_TENSORFLOW = OtherFormat(name="TensorFlow", no_way=WITH_TRANSFORMERS_4.format("from_tf"))
TRANSFORMERS_FLAX = OtherFormat(name="Flax", no_way=WITH_TRANSFORMERS_4.format("from_flax"))
FLAX = OtherFormat(
    name="Flax",
    convert="tree = flax.serialization.msgpack_restore(open('FILE', 'rb').read()); "
    + TO_SAFETENSORS.format("flax.traverse_util.flatten_dict(tree, sep='.')"),
)
GGUF = OtherFormat(
    name="GGUF",
    convert="transformers.AutoModelForCausalLM.from_pretrained('FOLDER', gguf_file='FILE').save_pretrained('NEW')",
)
ONNX = OtherFormat(
    name="ONNX",
    convert="weights = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load('FILE').graph.initializer}; "
    + TO_SAFETENSORS.format("weights"),
)
PADDLE = OtherFormat(
    name="Paddle",
    convert="weights = {name: t.numpy() for name, t in paddle.load('FILE').items()}; "
    + TO_SAFETENSORS.format("weights"),
)


def _of_tensorflow(place: str) -> OtherFormat:
    return OtherFormat(
        name="TensorFlow",
        convert=f"r = tensorflow.train.load_checkpoint('{place}'); weights = {{n: r.get_tensor(n) for n in "
        "r.get_variable_to_dtype_map() if n != '_CHECKPOINTABLE_OBJECT_GRAPH'}; " + TO_SAFETENSORS.format("weights"),
    )


def _of_orbax(place: str) -> OtherFormat:
    """It takes absolute paths alone, and gives arrays of jax."""
    return OtherFormat(
        name="Orbax",
        convert=f"tree = orbax.checkpoint.StandardCheckpointer().restore(os.path.abspath('{place}')); "
        "safetensors.flax.save_file(flax.traverse_util.flatten_dict(tree, sep='.'), 'FOLDER.safetensors')",
    )


TENSORFLOW, SAVED_MODEL = _of_tensorflow("FOLDER"), _of_tensorflow("FOLDER/variables/variables")
ORBAX, ORBAX_DEFAULT = _of_orbax("FOLDER"), _of_orbax("FOLDER/default")
TORCH_EXPORT = OtherFormat(name="torch.export", convert="torch.save(torch.export.load('FILE').state_dict, 'FILE.pt')")
TORCHSCRIPT = OtherFormat(name="TorchScript", convert="torch.save(torch.jit.load('FILE').state_dict(), 'FILE.pt')")
PICKLE = OtherFormat(
    name="pickle",
    no_way="such a file may hold anything. Save the weights with `torch.save(model.state_dict(), 'FILE.pt')`",
)
NUMPY = OtherFormat(name="NumPy", convert=TO_SAFETENSORS.format("dict(numpy.load('FILE'))"))
TORCH7 = OtherFormat(name="Torch7", no_way="train with PyTorch, or convert it with the package `torchfile`")
PART_OF_DCP = OtherFormat(
    name="torch.distributed.checkpoint",
    no_way="it is a part of one checkpoint, which has a file `.metadata` beside it. That file is missing here",
)

BY_ENDING: dict[str, OtherFormat] = {
    "tf_model.h5": TRANSFORMERS_TENSORFLOW,
    "flax_model.msgpack": TRANSFORMERS_FLAX,
    ".weights.h5": KERAS_WEIGHTS,
}
"""How a name ends -> what it is, before its suffix is looked at."""
BY_SUFFIX: dict[str, OtherFormat] = {
    ".h5": KERAS,
    ".hdf5": KERAS,
    ".keras": KERAS,
    ".msgpack": FLAX,
    ".gguf": GGUF,
    ".ggml": GGUF,
    ".onnx": ONNX,
    ".pdparams": PADDLE,
    ".npz": NUMPY,
    ".pkl": PICKLE,
    ".pickle": PICKLE,
    ".pt2": TORCH_EXPORT,
    ".distcp": PART_OF_DCP,
    ".t7": TORCH7,
    ".pb": SAVED_MODEL,
    ".tflite": OtherFormat(name="TensorFlow Lite"),
    ".mlmodel": OtherFormat(name="Core ML"),
    ".mlpackage": OtherFormat(name="Core ML"),
    ".engine": OtherFormat(name="TensorRT"),
    ".plan": OtherFormat(name="TensorRT"),
    ".pte": OtherFormat(name="ExecuTorch"),
}


def by_name(name: str) -> OtherFormat | None:
    lowered = name.lower()
    found = next((each for ending, each in BY_ENDING.items() if lowered.endswith(ending)), None)
    return found or BY_SUFFIX.get(PurePath(lowered).suffix)


BY_MARKER: dict[str, OtherFormat] = {
    "saved_model.pb": SAVED_MODEL,
    "*.ckpt*.index": TENSORFLOW,
    "ckpt-*.index": TENSORFLOW,
    "default/_METADATA": ORBAX_DEFAULT,
    "_CHECKPOINT_METADATA": ORBAX,
    "*/_CHECKPOINT_METADATA": ORBAX,
    "_METADATA": ORBAX,
}
"""What a folder in such a format holds."""
