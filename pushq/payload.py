"""The form of a task's payload: a key for each argument of the handler, with the type of its annotation."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, Unpack, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticSerializationError

from pushq.errors import PayloadError, TasksError
from pushq.handler import code_of, place_of
from pushq.lifespan import asked_for, resources_here
from pushq.roundtrip import Check, alike, doubts, loses, read, unreadable
from pushq.storable import refuse_nul
from pushq.written import with_text


@dataclass(frozen=True, slots=True, eq=False)
class PayloadForm:
    """Turns the arguments of one task into a payload, and a payload into arguments.

    task: the task's name. signature: the parameters that a payload fills. named: those that a call may give.
    required: those without a default. model: has a field for each. parameters: (parameter, field of the model).
    resources: parameters that the lifespan fills, each with its type. doubts: fields whose values may come back changed
    from JSON.
    """

    task: str
    signature: inspect.Signature
    named: frozenset[str]
    required: frozenset[str]
    model: type[BaseModel]
    parameters: tuple[tuple[str, str], ...]
    resources: Mapping[str, Any]
    doubts: Mapping[str, Check]

    def payload(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The payload for a call with these arguments. Raises PayloadError, as `Task.job` says."""
        given = self._given(*args, **kwargs)
        model = self._checked(self.model.__pydantic_validator__.validate_python, given)
        try:
            text, doubtful = self._written(model)
            payload = read(text)
            refuse_nul(written := text.decode())
        except (ValueError, TypeError) as error:
            raise PayloadError(f"Arguments of task {self.task!r} cannot be JSON: {error}.") from None
        if doubtful:
            self._refuse_changed(doubtful, given, model, text)
        return with_text(payload, written)

    def arguments(self, payload: str) -> dict[str, Any]:
        """The handler's arguments, from a payload's JSON text. Raises PayloadError, as `Task.arguments` says."""
        model = self._checked(self.model.__pydantic_validator__.validate_json, payload)
        values = vars(model)
        arguments = {argument: values[name] for argument, name in self.parameters}
        if self.resources:
            arguments |= dict.fromkeys(self.resources, resources_here())
        return arguments if model.model_extra is None else arguments | model.model_extra

    def _given(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not args and self.required <= kwargs.keys() <= self.named:  # five times as fast as what follows
            return kwargs
        try:
            given = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise PayloadError(f"Arguments do not fit task {self.task!r}: {error}.") from None
        if len(self.parameters) < len(self.signature.parameters):  # **kwargs come as one argument, in the last place
            given |= given.pop(next(reversed(self.signature.parameters)), {})
        return given

    def _checked(self, check: Callable[[Any], BaseModel], given: object) -> BaseModel:
        try:
            return check(given)
        except ValidationError as error:
            raise PayloadError(self._complaint(error)) from None
        except RecursionError:
            raise PayloadError(f"The payload of task {self.task!r} is nested too deeply to be checked.") from None
        except MemoryError:
            raise
        except Exception as error:  # a validator is the user's code, and must hurt only its own job
            raise PayloadError(f"A validator of task {self.task!r} raised {type(error).__name__}.") from error

    def _complaint(self, error: ValidationError) -> str:
        faults = error.errors(include_url=False, include_input=False)[:10]
        if faults[0]["type"] == "json_invalid":
            reason = unreadable(faults[0]["ctx"]["error"])
            return f"The payload of task {self.task!r} cannot be read: {reason}."
        told = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'payload'}: {fault['msg']}" for fault in faults)
        return f"The payload does not fit task {self.task!r}: {told}."

    def _written(self, model: BaseModel) -> tuple[bytes, Collection[str]]:
        """The payload's text, and the names of fields that must be read back to see whether they change."""
        given, values = model.model_fields_set, vars(model)
        write = self.model.__pydantic_serializer__.to_json
        # An omitted argument stays out, for the handler's own default. A default inside of a value is filled in here.
        try:
            text = write(model, by_alias=True, include=given, round_trip=True, warnings="error")
        except PydanticSerializationError:  # perhaps a model was changed since its validation
            return write(model, by_alias=True, include=given, round_trip=True, warnings="none"), given
        if not self.doubts and not model.model_extra:
            return text, ()
        doubtful = [name for name, is_sure in self.doubts.items() if name in given and not is_sure(values[name])]
        return text, doubtful + list(model.model_extra or ())

    def _refuse_changed(
        self, names: Collection[str], given: Mapping[str, Any], model: BaseModel, payload: bytes
    ) -> None:
        """Raises PayloadError if an argument would reach the handler changed."""
        try:
            back = self._checked(self.model.__pydantic_validator__.validate_json, payload)
        except PayloadError as error:
            raise PayloadError(f"These arguments could not be read back from JSON: {error}") from None
        arguments = {field: argument for argument, field in self.parameters}
        for name in names:
            argument = arguments.get(name, name)  # each of **kwargs has its own name
            was, comes = _value(model, name), _value(back, name)
            if alike(given[argument], comes) or (alike(was, comes) and not loses(given[argument], comes)):
                continue
            raise PayloadError(
                f"Argument {argument!r} of task {self.task!r} would reach the handler changed: {_change(was, comes)}."
            )


def form_of(name: str, function: Callable[..., object], parameters: Iterable[inspect.Parameter]) -> PayloadForm:
    """The form for a handler with these parameters. Raises TasksError for what a payload cannot fill."""
    hints = hints_of(name, function)
    resources = asked_for(hints)
    filled = [parameter for parameter in parameters if parameter.name not in resources]
    return PayloadForm(**parts_of(name, function, filled, hints, resources))


def parts_of(
    name: str,
    function: Callable[..., object],
    parameters: Sequence[inspect.Parameter],
    hints: Mapping[str, Any],
    resources: Mapping[str, Any],
) -> dict[str, Any]:
    """The fields of a form whose payloads fill these parameters. Raises TasksError."""
    model = _model(name, function, parameters, hints)
    names = tuple((field.alias or own, own) for own, field in model.model_fields.items())
    ordinary = [one for one in parameters if one.kind is not one.VAR_KEYWORD]
    return {
        "task": name,
        "signature": inspect.Signature(parameters),
        "named": frozenset(one.name for one in ordinary),
        "required": frozenset(one.name for one in ordinary if one.default is one.empty),
        "model": model,
        "parameters": names,
        "resources": resources,
        "doubts": doubts(model),
    }


def hints_of(name: str, function: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(code_of(function), include_extras=True)
    except Exception as error:  # an annotation is evaluated, and may raise anything
        raise TasksError(
            f"Task {name!r}: an annotation of {place_of(function)} cannot be resolved: {error}; "
            "define or import those names above the handler, outside of `if TYPE_CHECKING`."
        ) from error


def _model(
    name: str, function: Callable[..., object], parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]
) -> type[BaseModel]:
    """A pydantic model with a field for each of these parameters: the payload's keys are the handler's arguments."""
    fields: dict[str, Any] = {}
    config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,  # infinity is also how a number of 400 digits would be read
        ser_json_inf_nan="constants",  # else NaN becomes null in values without annotation
    )
    for number, parameter in enumerate(parameters):
        _check_parameter(f"Task {name!r}: parameter {parameter.name!r} of {place_of(function)}", parameter)
        hint = hints.get(parameter.name, Any)
        if parameter.kind is not parameter.VAR_KEYWORD:
            # Fields have neutral names, since pydantic refuses some names that are fine for parameters.
            fields[f"argument_{number}"] = (hint, _field(parameter))
        else:
            config["extra"] = "allow"
            fields["__pydantic_extra__"] = (GenericAlias(dict, (str, Any if get_origin(hint) is Unpack else hint)), ...)
    try:
        model = create_model("Payload", __config__=config, **fields)
        model.model_rebuild()  # raises for an undefined annotation inside of an annotation
    except Exception as error:
        raise TasksError(
            f"Task {name!r}: {place_of(function)} has an annotation that JSON cannot fill: {_unfillable(error)}"
        ) from error
    return model


_NO_SCHEMA = re.compile(r"Unable to generate pydantic-core schema for (.+?)\. Set ")


def _unfillable(error: Exception) -> str:
    reason = str(error).partition("\n")[0]
    if found := _NO_SCHEMA.match(reason):
        return f"{found[1]}; use a dataclass or a pydantic model, or Resource[…] for what the lifespan yields."
    return reason


def _check_parameter(subject: str, parameter: inspect.Parameter) -> None:
    if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
        raise TasksError(f"{subject} can only be given by position, and a payload has names; make it an ordinary one.")
    if isinstance(parameter.default, FieldInfo):  # a direct call would get the Field itself
        raise TasksError(f"{subject} has a Field for its default; write Annotated[type, Field(…)] = default.")


def _field(parameter: inspect.Parameter) -> Any:
    name = parameter.name
    default = ... if parameter.default is parameter.empty else parameter.default
    return Field(default, alias=name, validation_alias=name, serialization_alias=name)


def _value(model: BaseModel, name: str) -> object:
    values = vars(model)
    return values[name] if name in values else (model.model_extra or {})[name]


def _change(was: object, comes: object) -> str:
    """What changes, without the value, which may be a secret."""
    kind, other = type(was).__name__, type(comes).__name__
    if kind != other:
        return f"a {kind} comes back from JSON as a {other}; pass a {other}, or annotate the parameter as {kind}"
    return f"JSON cannot hold every part of this {kind}; pass its fields, or give it a serializer of them all"
