"""Caffe's files as Google's own protocol buffers write them: the fields of caffe.proto that matter.

Field numbers are those of github.com/BVLC/caffe, src/caffe/proto/caffe.proto.
"""

from pathlib import Path
from typing import Any

import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto
NUMBER, SMALL, FLOAT, DOUBLE, TEXT = (
    *(Field.TYPE_INT64, Field.TYPE_INT32, Field.TYPE_FLOAT),
    *(Field.TYPE_DOUBLE, Field.TYPE_STRING),
)

# Message, then: name, number, type (or the name of a message), repeated, packed.
SCHEMA: dict[str, list[tuple[str, int, Any, bool, bool]]] = {
    "BlobShape": [("dim", 1, NUMBER, True, True)],
    "BlobProto": [
        ("num", 1, SMALL, False, False),
        ("channels", 2, SMALL, False, False),
        ("height", 3, SMALL, False, False),
        ("width", 4, SMALL, False, False),
        ("data", 5, FLOAT, True, True),
        ("diff", 6, FLOAT, True, True),
        ("shape", 7, "BlobShape", False, False),
        ("double_data", 8, DOUBLE, True, True),
    ],
    "ConvolutionParameter": [("num_output", 1, SMALL, False, False)],
    "LayerParameter": [
        ("name", 1, TEXT, False, False),
        ("type", 2, TEXT, False, False),
        ("bottom", 3, TEXT, True, False),
        ("loss_weight", 5, FLOAT, True, False),
        ("blobs", 7, "BlobProto", True, False),
        ("phase", 10, SMALL, False, False),
        ("convolution_param", 106, "ConvolutionParameter", False, False),
    ],
    "V1LayerParameter": [
        ("name", 4, TEXT, False, False),
        ("type", 5, SMALL, False, False),
        ("blobs", 6, "BlobProto", True, False),
        ("blobs_lr", 7, FLOAT, True, False),
    ],
    "NetParameter": [
        ("name", 1, TEXT, False, False),
        ("layers", 2, "V1LayerParameter", True, False),
        ("input_dim", 4, SMALL, True, False),
        ("layer", 100, "LayerParameter", True, False),
    ],
}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, packed in fields:
            added = message.field.add(name=field, number=number)
            added.label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            added.type = Field.TYPE_MESSAGE if isinstance(kind, str) else kind
            if isinstance(kind, str):
                added.type_name = f".caffe.{kind}"
            if packed:
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in SCHEMA
    }


MESSAGES = _messages()


def fill_blob(blob: Any, tensor: torch.Tensor, style: str) -> None:
    """A tensor as a blob: with a "shape", in "double" precision, or of the "old" four sizes."""
    (blob.double_data if style == "double" else blob.data).extend(tensor.flatten().tolist())
    if style == "old":
        sizes = [1] * (4 - tensor.ndim) + list(tensor.shape)
        blob.num, blob.channels, blob.height, blob.width = sizes
    else:
        blob.shape.dim.extend(tensor.shape)


def write_caffemodel(
    path: Path, state: dict[str, torch.Tensor], *, style: str = "shape", v1: bool = False
) -> None:
    """A state dict (``layer.weight``, ``layer.bias``) as Caffe would save the network."""
    net = MESSAGES["NetParameter"](name="a network")
    net.input_dim.extend([1, 3, 500, 500])
    for name in dict.fromkeys(key.rsplit(".", 1)[0] for key in state):
        layer = (net.layers if v1 else net.layer).add(name=name)
        if v1:
            layer.type = 4
            layer.blobs_lr.extend([1, 2])
        else:
            layer.type, layer.phase = "Convolution", 1
            layer.bottom.append("data")
            layer.loss_weight.append(0.5)
            layer.convolution_param.num_output = 3
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in state:
                fill_blob(layer.blobs.add(), state[f"{name}.{kind}"], style)
    relu = net.layers.add(name="relu", type=18) if v1 else net.layer.add(name="relu", type="ReLU")
    assert not relu.blobs
    path.write_bytes(net.SerializeToString())
