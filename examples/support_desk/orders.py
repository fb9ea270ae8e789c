"""The shop's orders, as its database would hold them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Order:
    """Something that somebody bought. Money is in euros."""

    number: str
    what: str
    price: float
    state: str
    refunded: float = 0.0

    def __str__(self) -> str:
        refunded = f", {self.refunded:.2f} € refunded" if self.refunded else ""
        return f"Order {self.number}: {self.what}, {self.price:.2f} €, {self.state}{refunded}."


class OrderError(ValueError):
    """A request that cannot be met for an order; the message is fit for a customer."""


@dataclass(slots=True)
class Shop:
    """The orders placed so far."""

    orders: dict[str, Order] = field(
        default_factory=lambda: {
            order.number: order
            for order in (
                Order("1001", "a kettle", 39.90, "delivered on Monday"),
                Order("1002", "two bicycle tyres", 58.00, "on its way, expected tomorrow"),
                Order("1003", "a desk lamp", 24.50, "delivered broken, says the customer"),
            )
        }
    )

    def find(self, number: str) -> Order:
        """The order with this number.

        Raises:
            OrderError: there is none.
        """
        order = self.orders.get(number)
        if order is None:
            raise OrderError(f"There is no order {number}.")
        return order

    def refund(self, number: str, amount: float) -> Order:
        """Give money back.

        Raises:
            OrderError: the amount is more than was paid, or nothing.
        """
        order = self.find(number)
        if not 0 < amount <= order.price - order.refunded:
            raise OrderError(f"Of order {number} at most {order.price - order.refunded:.2f} € can be refunded.")
        self.orders[number] = replace(order, refunded=order.refunded + amount)
        return self.orders[number]
