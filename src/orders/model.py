"""What an order is, what a customer may ask for, and which way an order may go.

Nothing in here knows AWS. Amounts are integers in minor units of the order's currency (cents), times are
UTC in ISO 8601 with milliseconds.
"""

import datetime
import uuid
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

SCHEMA_VERSION = 1
MAX_LINES = 100
# DynamoDB's TransactWriteItems quota is 100 items: one is the order itself, the others one a product.
MAX_PRODUCTS = 99
OPEN_SHARDS = 16
ORDER_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z"
# The namespace in which an Idempotency-Key becomes an order id (RFC 9562, UUID version 5).
ORDER_NAMESPACE = uuid.UUID("5f0c9a5e-30c5-4f1c-9d5c-3a1f0f6f9b11")

# ISO 4217, active codes, without funds, metals and testing codes.
# fmt: off
Currency = Literal[
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BHD", "BIF", "BMD", "BND",
    "BOB", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY", "COP", "CRC", "CUP", "CVE",
    "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD",
    "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "IQD", "IRR", "ISK", "JMD", "JOD", "JPY",
    "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "LYD", "MAD",
    "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD", "NGN", "NIO",
    "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF",
    "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB",
    "TJS", "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "UYU", "UZS", "VED", "VES", "VND",
    "VUV", "WST", "XAF", "XCD", "XCG", "XOF", "XPF", "YER", "ZAR", "ZMW", "ZWG",
]
# ISO 3166-1 alpha-2, officially assigned codes.
Country = Literal[
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW", "AX", "AZ", "BA", "BB",
    "BD", "BE", "BF", "BG", "BH", "BI", "BJ", "BL", "BM", "BN", "BO", "BQ", "BR", "BS", "BT", "BV", "BW", "BY",
    "BZ", "CA", "CC", "CD", "CF", "CG", "CH", "CI", "CK", "CL", "CM", "CN", "CO", "CR", "CU", "CV", "CW", "CX",
    "CY", "CZ", "DE", "DJ", "DK", "DM", "DO", "DZ", "EC", "EE", "EG", "EH", "ER", "ES", "ET", "FI", "FJ", "FK",
    "FM", "FO", "FR", "GA", "GB", "GD", "GE", "GF", "GG", "GH", "GI", "GL", "GM", "GN", "GP", "GQ", "GR", "GS",
    "GT", "GU", "GW", "GY", "HK", "HM", "HN", "HR", "HT", "HU", "ID", "IE", "IL", "IM", "IN", "IO", "IQ", "IR",
    "IS", "IT", "JE", "JM", "JO", "JP", "KE", "KG", "KH", "KI", "KM", "KN", "KP", "KR", "KW", "KY", "KZ", "LA",
    "LB", "LC", "LI", "LK", "LR", "LS", "LT", "LU", "LV", "LY", "MA", "MC", "MD", "ME", "MF", "MG", "MH", "MK",
    "ML", "MM", "MN", "MO", "MP", "MQ", "MR", "MS", "MT", "MU", "MV", "MW", "MX", "MY", "MZ", "NA", "NC", "NE",
    "NF", "NG", "NI", "NL", "NO", "NP", "NR", "NU", "NZ", "OM", "PA", "PE", "PF", "PG", "PH", "PK", "PL", "PM",
    "PN", "PR", "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS", "RU", "RW", "SA", "SB", "SC", "SD", "SE", "SG",
    "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS", "ST", "SV", "SX", "SY", "SZ", "TC", "TD", "TF",
    "TG", "TH", "TJ", "TK", "TL", "TM", "TN", "TO", "TR", "TT", "TV", "TW", "TZ", "UA", "UG", "UM", "US", "UY",
    "UZ", "VA", "VC", "VE", "VG", "VI", "VN", "VU", "WF", "WS", "YE", "YT", "ZA", "ZM", "ZW",
]
# fmt: on

# A line of text has no control characters (C0, C1), no line separators, and no marks that turn the direction of the
# text around them (U+202A to U+202E, U+2066 to U+2069). No character class has more than two ranges beyond
# Latin-1: re compiles those ten times slower, at each cold start.
_LINE = r"(?!.*[\u2028-\u202e\u2066-\u2069])[^\x00-\x1f\x7f-\x9f]*\Z"
LINE_OF_TEXT = Meta(pattern=rf"^{_LINE}", description="one line of text without control characters")
VISIBLE_TEXT = Meta(
    pattern=rf"^(?![\s\u200b-\u200f\ufeff]*\Z){_LINE}",
    description="one line of text that is not blank and has no control characters",
)


class ValidationError(Exception):
    """The order can't be carried out as it stands; the message is for the customer."""


class Unreadable(Exception):  # noqa: N818
    """Data that isn't in the form that it must have: a mistake of ours, never the customer's."""


class OutOfStock(Exception):  # noqa: N818 - the name that the workflow and the customer see
    """A product isn't there in the quantity asked for."""


class PaymentError(Exception):
    """The payment provider answered, and the answer was no."""


class PaymentDeclined(PaymentError):  # noqa: N818
    """The customer's payment method was declined; trying again won't help."""


class PaymentProviderError(Exception):
    """The payment provider was unreachable, failed, or its answer was lost; the same request may be repeated."""


class WarehouseError(Exception):
    """The warehouse refuses this order for good."""


class WarehouseUnavailable(Exception):  # noqa: N818
    """The warehouse doesn't answer just now; the same request may be repeated."""


class AlreadyShipped(Exception):  # noqa: N818
    """The parcel has left: what was asked for can't be undone any more."""


class OrderCancelled(Exception):  # noqa: N818
    """The order was ended by somebody else while this step was under way."""


class IllegalTransition(Exception):  # noqa: N818
    """The order's status doesn't allow this step."""


class Busy(Exception):  # noqa: N818
    """Others are at work on the same items, or there are too many requests; the same request may be repeated."""


class StoredWord(StrEnum):
    """A word that is stored or sent. A word that only newer code knows is kept as it is, not refused.

    After a rollback, older code meets such words; one of them must not make a customer's list unreadable.
    """

    @classmethod
    def _missing_(cls, value: object) -> "StoredWord | None":
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word


class Status(StoredWord):
    """Where an order is."""

    PLACED = "PLACED"
    RESERVED = "RESERVED"
    PAID = "PAID"
    FULFILLED = "FULFILLED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PLACED: frozenset({Status.RESERVED, Status.FAILED, Status.CANCELLED}),
    Status.RESERVED: frozenset({Status.PAID, Status.FAILED, Status.CANCELLED}),
    Status.PAID: frozenset({Status.FULFILLED, Status.FAILED}),
    Status.FULFILLED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


def require_transition(current: Status, following: Status) -> None:
    """Return if an order may go from `current` to `following`, else raise `IllegalTransition`."""
    if following not in TRANSITIONS.get(current, ()):
        raise IllegalTransition(f"an order that is {current} can't become {following}")


class Line(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One product and how many of it."""

    sku: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
            description="a product code: up to 64 letters, digits, '.', '_' and '-', the first a letter or a digit",
        ),
    ]
    quantity: Annotated[int, Meta(ge=1, le=999)]


class Address(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Where the customer wants the parcel to go."""

    name: Annotated[str, Meta(min_length=1, max_length=100), VISIBLE_TEXT]
    line1: Annotated[str, Meta(min_length=1, max_length=200), VISIBLE_TEXT]
    city: Annotated[str, Meta(min_length=1, max_length=100), VISIBLE_TEXT]
    postal_code: Annotated[str, Meta(min_length=1, max_length=20), VISIBLE_TEXT]
    country: Annotated[Country, Meta(description="an assigned ISO 3166-1 alpha-2 country code")]
    line2: Annotated[str, Meta(max_length=200), LINE_OF_TEXT] | None = None


class OrderRequest(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of `POST /orders`. No prices: they are the catalogue's."""

    currency: Annotated[Currency, Meta(description="an active ISO 4217 currency code")]
    lines: Annotated[list[Line], Meta(min_length=1, max_length=MAX_LINES)]
    shipping_address: Address
    payment_method: Annotated[
        str,
        Meta(
            pattern=r"^tok_[A-Za-z0-9_]{1,60}\Z",
            description="the payment provider's token ('tok_' and up to 60 letters, digits and '_'), never card data",
        ),
    ]

    def __post_init__(self) -> None:
        if len(self.lines) > MAX_PRODUCTS and len({line.sku for line in self.lines}) > MAX_PRODUCTS:
            raise ValueError(f"an order names at most {MAX_PRODUCTS} different products")


class StoredAddress(Struct, frozen=True, rename="camel", omit_defaults=True):
    """Where the parcel goes, as it is stored and sent: whatever older or newer code took for an address."""

    name: str
    line1: str
    city: str
    postal_code: str
    country: str
    line2: str | None = None


class PricedLine(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A line as it is stored: `unit_price` in minor units, absent until the order is validated."""

    sku: str
    quantity: int
    unit_price: int | None = None


class Reason(Struct, frozen=True):
    """Why an order failed: a code for programs and a sentence for the customer."""

    code: str
    message: str


DISCARDED = Reason("Discarded", "the order could not be carried out")


class TimelineEntry(Struct, frozen=True, omit_defaults=True):
    """Something that happened to the order: a status, or an attempt that failed."""

    at: str
    what: str
    detail: str | None = None


class Order(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """An order as the orders table holds it; `version` counts the changes of status.

    `given_up` marks an order that an operator has given up, with the reason that its customer will read: from
    then on the order is only undone, never carried on, whoever takes it up.
    """

    customer_id: str
    order_id: str
    status: Status
    version: int
    placed_at: str
    updated_at: str
    currency: str
    lines: list[PricedLine]
    shipping_address: StoredAddress
    payment_method: str
    correlation_id: str
    request_hash: str
    email: str | None = None
    total: int | None = None
    reason: Reason | None = None
    given_up: Reason | None = None
    payment_id: str | None = None
    shipment_id: str | None = None
    open_shard: str | None = None
    timeline: list[TimelineEntry] = []
    schema_version: int = msgspec.field(default_factory=lambda: SCHEMA_VERSION)  # never omitted as a default


def undoing_of(order: Order) -> str:
    """How far the undoing of an order that was given up has come, in a sentence for its operator."""
    match order.status:
        case Status.FAILED:
            return "the order is FAILED: nothing stays charged or reserved, and nothing is shipped"
        case Status.CANCELLED:
            return "the order is CANCELLED by its customer: nothing stays charged or reserved"
        case Status.FULFILLED:
            return "the parcel had left already: the order is FULFILLED and stays charged"
    return f"the order is {order.status} and is being undone"


def timestamp() -> str:
    """Now, as every stored time is written: `2026-01-31T12:00:00.000Z`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def timestamp_before(seconds: float) -> str:
    """The time so many seconds ago, in the form of `timestamp`."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return then.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def seconds_since(at: str) -> float:
    """How long ago a `timestamp` was, in seconds."""
    return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)).total_seconds()


def order_id_for(customer_id: str, idempotency_key: str | None) -> str:
    """The id of a customer's order: the same one for the same key, so that a retry meets the same item."""
    if idempotency_key is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(ORDER_NAMESPACE, f"{customer_id}\n{idempotency_key}"))


def open_shard_of(order_id: str) -> str:
    """The partition of the open-orders index that this order is listed in: two digits."""
    return f"{int(order_id[-1], 16) % OPEN_SHARDS:02d}"


def place(
    request: OrderRequest,
    *,
    customer_id: str,
    email: str | None,
    order_id: str,
    correlation_id: str,
    request_hash: str,
) -> Order:
    """Make the order that a customer asked for, PLACED and not yet priced."""
    now = timestamp()
    return Order(
        customer_id=customer_id,
        order_id=order_id,
        status=Status.PLACED,
        version=1,
        placed_at=now,
        updated_at=now,
        currency=request.currency,
        lines=[PricedLine(line.sku, line.quantity) for line in request.lines],
        shipping_address=StoredAddress(**msgspec.structs.asdict(request.shipping_address)),
        payment_method=request.payment_method,
        correlation_id=correlation_id,
        request_hash=request_hash,
        email=email,
        open_shard=open_shard_of(order_id),
        timeline=[TimelineEntry(now, Status.PLACED)],
    )


class Product(Struct, frozen=True, rename="camel"):
    """What the catalogue says of a product: `price` in minor units of `currency`."""

    sku: str
    price: int
    currency: str


def price_lines(order: Order, products: dict[str, Product]) -> list[PricedLine]:
    """Price an order's lines, those of the same product put together.

    `products` holds what the catalogue knows, by sku. Raises `ValidationError` naming every product that
    isn't sold, or not in the order's currency.
    """
    unknown = sorted({line.sku for line in order.lines if line.sku not in products})
    if unknown:
        raise ValidationError(f"not in the catalogue: {', '.join(unknown)}")
    foreign = sorted({line.sku for line in order.lines if products[line.sku].currency != order.currency})
    if foreign:
        raise ValidationError(f"not sold in {order.currency}: {', '.join(foreign)}")
    quantities: dict[str, int] = {}
    for line in order.lines:
        quantities[line.sku] = quantities.get(line.sku, 0) + line.quantity
    return [PricedLine(sku, quantity, products[sku].price) for sku, quantity in quantities.items()]


def total_of(lines: list[PricedLine]) -> int:
    """The sum of priced lines, in minor units."""
    return sum(line.quantity * (line.unit_price or 0) for line in lines)
