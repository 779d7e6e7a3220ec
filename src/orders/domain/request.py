"""The body of `POST /orders`: which fields an order has, and which values each field takes."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

MAX_LINES = 100
# DynamoDB's TransactWriteItems quota is 100 items: one for the order, one for each product.
MAX_PRODUCTS = 99

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
# Latin-1: `re` compiles such a class ten times slower, at each cold start.
_LINE = r"(?!.*[\u2028-\u202e\u2066-\u2069])[^\x00-\x1f\x7f-\x9f]*\Z"
LINE_OF_TEXT = Meta(pattern=rf"^{_LINE}", description="one line of text without control characters")
VISIBLE_TEXT = Meta(
    pattern=rf"^(?![\s\u200b-\u200f\ufeff]*\Z){_LINE}",
    description="one line of text that is not blank and has no control characters",
)


class Line(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A product and its quantity."""

    sku: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
            description="a product code: up to 64 letters, digits, '.', '_' and '-', the first a letter or a digit",
        ),
    ]
    quantity: Annotated[int, Meta(ge=1, le=999)]


class Address(Struct, frozen=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """The shipping address of a new order."""

    name: Annotated[str, Meta(min_length=1, max_length=100), VISIBLE_TEXT]
    line1: Annotated[str, Meta(min_length=1, max_length=200), VISIBLE_TEXT]
    city: Annotated[str, Meta(min_length=1, max_length=100), VISIBLE_TEXT]
    postal_code: Annotated[str, Meta(min_length=1, max_length=20), VISIBLE_TEXT]
    country: Annotated[Country, Meta(description="an assigned ISO 3166-1 alpha-2 country code")]
    line2: Annotated[str, Meta(max_length=200), LINE_OF_TEXT] | None = None


class OrderRequest(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of `POST /orders`. The prices are the catalogue's."""

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
