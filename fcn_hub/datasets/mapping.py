"""Class mappings: training on a subset of a data set's classes, or on merged ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fcn_hub.labels import LabelMap, LabelMapError


@dataclass(frozen=True)
class ClassMapping:
    """From the classes of one label map to those of another; made by `class_mapping`.

    Args:
        source: The classes that a data set has.
        target: The classes wanted.
        table: One entry per source class: a target class index or `target.ignore_index`.
    """

    source: LabelMap
    target: LabelMap
    table: tuple[int, ...]

    def __call__(self, index: int) -> int:
        """The target class of a source class; what is ignored stays ignored."""
        return self.target.ignore_index if index == self.source.ignore_index else self.table[index]


def class_mapping(
    source: LabelMap,
    classes: Mapping[str, Sequence[str]] | Iterable[str],
    rest: str = "ignore",
) -> ClassMapping:
    """Choose, merge and order classes.

    Args:
        source: The classes that the data set has.
        classes: The classes wanted, in their new order. Either names of `source`, or new names,
            each with the names of `source` that it takes in. In a list of names,
            ``"vehicle=car+bus"`` does the same as ``{"vehicle": ["car", "bus"]}``.
        rest: What becomes of every other class: ``"ignore"``, or the name of one of the classes
            wanted (``"background"``).

    Returns:
        The mapping. A class keeps its colour, a merged one takes that of its first member, and
        the ignore index stays.

    Raises:
        LabelMapError: A name is unknown, used twice or missing.

    Example:
        >>> class_mapping(LabelMap.CAMVID, ["road", "vehicle=car+bicyclist"]).table[3]
        0
    """
    wanted = dict(classes) if isinstance(classes, Mapping) else _parsed(source, classes)
    members = {name: _members(name, group) for name, group in wanted.items()}
    if not members:
        raise LabelMapError("A class mapping must keep at least one class.")
    if rest != "ignore" and rest not in members:
        raise LabelMapError(f"rest must be 'ignore' or one of {', '.join(members)}, not {rest!r}.")
    table = [source.ignore_index if rest == "ignore" else list(members).index(rest)] * len(source)
    taken: dict[str, str] = {}
    for new_index, (name, group) in enumerate(members.items()):
        for member in group:
            if member in taken:
                raise LabelMapError(
                    f"The class {member!r} is taken by both {taken[member]!r} and {name!r}."
                )
            taken[member] = name
            table[source.index(member)] = new_index
    colors = [source.colors[source.index(group[0])] for group in members.values()]
    target = LabelMap(tuple(members), tuple(colors), source.ignore_index)
    return ClassMapping(source, target, tuple(table))


def _parsed(source: LabelMap, items: Iterable[str]) -> dict[str, list[str]]:
    if isinstance(items, str):
        raise LabelMapError(f"Classes must be a list of names, not {items!r}.")
    wanted: dict[str, list[str]] = {}
    for item in items:
        # A class may have "=" in its own name.
        name, equals, group = (item, "", "") if item in source.names else item.partition("=")
        name = name.strip()
        if name in wanted:
            raise LabelMapError(f"The class {name!r} is given twice.")
        wanted[name] = [part.strip() for part in group.split("+")] if equals else [name]
    return wanted


def _members(name: str, group: Sequence[str]) -> list[str]:
    members = [group] if isinstance(group, str) else list(group)
    if not members:
        raise LabelMapError(f"The class {name!r} takes in no class at all.")
    return members


# The built-in map has colours of its own.
VOC7 = replace(
    class_mapping(LabelMap.VOC, LabelMap.VOC7.names, rest="background"), target=LabelMap.VOC7
)
