"""The errors of the order pipeline. Their class names are the error names of the workflow's definition."""


class OrderError(Exception):
    """The base of every error in this module."""


class ValidationError(OrderError):
    """The order can't be carried out as it stands; the message is for the customer."""


class Unreadable(OrderError):
    """Data that isn't in the form that it must have: a mistake of ours, never the customer's."""


class PaymentError(OrderError):
    """The payment provider answered, and the answer was no."""


class PaymentDeclined(PaymentError):
    """The customer's payment method was declined; trying again won't help."""


class PaymentProviderError(OrderError):
    """The payment provider was unreachable, failed, or its answer was lost; the same request may be repeated."""


class WarehouseError(OrderError):
    """The warehouse refuses this order for good."""


class WarehouseUnavailable(OrderError):
    """The warehouse doesn't answer just now; the same request may be repeated."""


class AlreadyShipped(OrderError):
    """The parcel has left: what was asked for can't be undone any more."""


class OrderCancelled(OrderError):
    """The order was ended by somebody else while this step was under way."""


class IllegalTransition(OrderError):
    """The order's status doesn't allow this step."""


class Busy(OrderError):
    """Others are at work on the same items, or there are too many requests; the same request may be repeated."""


class BadCursor(OrderError):
    """The cursor is not one that this API gave out to this customer."""


class MailRefused(OrderError):
    """The mail service refused this mail."""


class NotAllowed(OrderError):
    """The failure's status doesn't allow this; the message says why and what does."""


class Contended(OrderError):
    """Others changed the record at each attempt."""
