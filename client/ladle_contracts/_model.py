"""The base of every model that crosses a process boundary, and of the lists of words in them."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Contract(BaseModel):
    """Frozen and strict: an unknown field is an error, and so is "1" where a number belongs.

    What another process of ours has written may be of a newer version: `read` keeps fields that this version does not
    know, and they are sent on and shown like the others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """From JSON that another process of ours has written. Raises pydantic's ValidationError."""
        return cls.model_validate_json(text, extra="allow")

    # Without the annotation of what it returns, pydantic's JSON schema is that of the fields.
    @model_serializer(mode="wrap")
    def _with_unknown_fields(self, handler: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return handler(self) | (self.model_extra or {})


class OpenEnum(StrEnum):
    """Words to which later versions add others."""

    @classmethod
    def read(cls, word: Any) -> Any:
        """For a field that another process fills: the member, or one that is made for a word from a newer version."""
        if not isinstance(word, str) or isinstance(word, cls):
            return word
        try:
            return cls(word)
        except ValueError:
            member = str.__new__(cls, word)
            member._name_ = member._value_ = word
            return member

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        return type(self).read, (str(self),)
