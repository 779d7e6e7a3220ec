"""The errors of the order pipeline. The workflow catches some of them by class name (statemachine/order.asl.yaml)."""


class OrderError(Exception):
    """The base of every error in this module."""


class ValidationError(OrderError):
    """The order can't be carried out as it stands; the message is for the customer."""


class OutOfStock(OrderError):
    """There is less of a product than was ordered; the message is for the customer."""


class TooManyStockItems(OrderError):
    """The order's stock lies in more items than one transaction takes; the message is for the customer."""


class Unreadable(OrderError):
    """Stored or sent data has an unknown form: a mistake of ours, never the customer's."""


class PaymentError(OrderError):
    """The payment provider refused."""


class PaymentDeclined(PaymentError):
    """The customer's payment method was declined; a retry won't help."""


class PaymentProviderError(OrderError):
    """The payment provider failed or its answer was lost: a transient error, retry the same request."""


class WarehouseError(OrderError):
    """The warehouse refuses this order for good."""


class WarehouseUnavailable(OrderError):
    """The warehouse doesn't answer: a transient error, retry the same request."""


class AlreadyShipped(OrderError):
    """The parcel has left, so its shipment can't be cancelled."""


class OrderCancelled(OrderError):
    """Somebody else ended the order during this step. The event of the same name is another thing."""


class OrderFailing(OrderError):
    """Somebody gave the order up during this step: another execution undoes it. The event's name is the same."""


class IllegalTransition(OrderError):
    """The order's status doesn't allow this step."""


class Busy(OrderError):
    """Others write to the same items, or there are too many requests: a transient error, retry the same request."""


class MailRefused(OrderError):
    """The mail service refused this mail."""


class NotAllowed(OrderError):
    """The failure's status doesn't allow this action; the message says why."""


class Contended(OrderError):
    """Others changed the record at each attempt."""
