"""What a test has done in a transaction of a store's writer, beside what stores do."""

from typing import Any

from trackside.app.storage._writing.work import UnitOfWork, Work


class OnSession(Work):
    """Whatever a test wants to do, or to know, in a transaction of the writer."""

    def __init__(self, do: Any) -> None:
        self._do = do

    @property
    def size(self) -> int:
        return 1

    def apply(self, unit: UnitOfWork) -> Any:
        return self._do(unit.session)


class Execute(Work):
    """Statements that nobody but a test runs."""

    size = 0

    def __init__(self, *statements: Any) -> None:
        self.statements = statements

    def apply(self, unit: UnitOfWork) -> None:
        for statement in self.statements:
            unit.session.execute(statement)
