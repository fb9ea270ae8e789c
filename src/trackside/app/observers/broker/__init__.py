"""Publishes each event to a message broker: NATS JetStream, or streams of Redis and Valkey."""

from trackside.app.observers.broker._observer import BrokerObserver

__all__ = ["BrokerObserver"]
