"""The templates, each read and compiled when it is first needed: a broken one takes no other page down."""

from __future__ import annotations

from typing import Any, cast, override

from jinja2 import BaseLoader, Environment, PackageLoader, StrictUndefined, meta, nodes

from trackside.app.dashboard import wording
from trackside.app.dashboard.assets import address_of, assets


class Templates(Environment):
    """The environment of the pages' templates.

    Compiling a template reads a file and takes milliseconds: `prepare` does that, in a thread, for a template and all
    that it names. After that, rendering a page does neither.
    """

    def __init__(self, *, version: str, loader: BaseLoader | None = None) -> None:
        super().__init__(
            loader=loader or PackageLoader("trackside.app.dashboard", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.filters.update(wording.FILTERS)
        cast("dict[str, Any]", self.globals).update(address_of=address_of, version=version)
        self._named: dict[str, list[str]] = {}
        self._prepared: set[str] = set()

    def is_prepared(self, name: str) -> bool:
        """Whether a template can be rendered at once."""
        return name in self._prepared

    def prepare(self, name: str) -> None:
        """Read and compile a template and those that it extends, includes and imports, which blocks.

        Raises:
            jinja2.TemplateError: one of them does not exist, or is not a template.
        """
        if name in self._prepared:
            return
        assets()
        self.get_template(name)
        for inner in self._named.get(name, ()):
            self.prepare(inner)
        self._prepared.add(name)

    @override
    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        # Jinja's hook for this: the template is already parsed here, and contains the names that it refers to.
        if name is not None:
            self._named[name] = [inner for inner in meta.find_referenced_templates(source) if inner is not None]
        return super()._generate(source, name, filename, defer_init)
