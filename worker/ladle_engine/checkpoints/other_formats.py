"""Formats that Ladle does not read: what they are called, and the command that turns one into what it reads."""

from __future__ import annotations

from dataclasses import dataclass

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
        what_to_do = f"Convert it in Python: `{self.convert}`" if self.convert else self.no_way.capitalize()
        return f"in {self.name} format, which Ladle does not read. {what_to_do}"


KERAS = OtherFormat(
    name="Keras",
    convert="os.environ['KERAS_BACKEND'] = 'torch'; import keras; "
    "torch.save(keras.saving.load_model('FILE').state_dict(), 'FILE.pt')",
)
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
TENSORFLOW = OtherFormat(
    name="TensorFlow",
    convert="r = tensorflow.train.load_checkpoint('FOLDER'); "
    "weights = {n: r.get_tensor(n) for n in r.get_variable_to_dtype_map() if n != '_CHECKPOINTABLE_OBJECT_GRAPH'}; "
    + TO_SAFETENSORS.format("weights"),
)
ORBAX = OtherFormat(
    name="Orbax",
    convert="tree = orbax.checkpoint.StandardCheckpointer().restore('FOLDER'); "
    + TO_SAFETENSORS.format("flax.traverse_util.flatten_dict(tree, sep='.')"),
)
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
    ".pb": TENSORFLOW,
    ".tflite": OtherFormat(name="TensorFlow Lite"),
    ".mlmodel": OtherFormat(name="Core ML"),
    ".mlpackage": OtherFormat(name="Core ML"),
    ".engine": OtherFormat(name="TensorRT"),
    ".plan": OtherFormat(name="TensorRT"),
    ".pte": OtherFormat(name="ExecuTorch"),
}
BY_MARKER: dict[str, OtherFormat] = {
    "saved_model.pb": TENSORFLOW,
    "*.ckpt*.index": TENSORFLOW,
    "ckpt-*.index": TENSORFLOW,
    "_CHECKPOINT_METADATA": ORBAX,
    "*/_CHECKPOINT_METADATA": ORBAX,
    "_METADATA": ORBAX,
    "default/_METADATA": ORBAX,
}
"""What a folder in such a format holds."""
