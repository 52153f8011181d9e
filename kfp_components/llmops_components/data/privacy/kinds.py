"""The kinds of personal data that are offered: those that can be told by their form alone.

Presidio's recognisers without a checksum or a strict form need words around them and a model that reads these; without one
they take every number for a driver's licence. They are not offered. Dates of birth are not either: a date says nothing of a
person.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmops_components.errors import SettingError, check_known


@dataclass(frozen=True)
class Kind:
    """A kind of personal data.

    Args:
        name: As Presidio names it, and as a mask shows it.
        recognizer: Presidio's class; None where the expressions are ours.
        country: Where it is used; None for everywhere.
    """

    name: str
    recognizer: str | None
    country: str | None = None


EMAIL_ADDRESS, PHONE_NUMBER, IBAN_CODE = "EMAIL_ADDRESS", "PHONE_NUMBER", "IBAN_CODE"
ACCESS_TOKEN, URL_WITH_LOGIN = "ACCESS_TOKEN", "URL_WITH_LOGIN"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(EMAIL_ADDRESS, "EmailRecognizer"),
        Kind(PHONE_NUMBER, "PhoneRecognizer"),
        Kind("CREDIT_CARD", "CreditCardRecognizer"),
        Kind(IBAN_CODE, "IbanRecognizer"),
        Kind("IP_ADDRESS", "IpRecognizer"),
        Kind("MAC_ADDRESS", "MacAddressRecognizer"),
        Kind("CRYPTO", "CryptoRecognizer"),
        Kind(URL_WITH_LOGIN, None),
        Kind(ACCESS_TOKEN, None),
        Kind("AU_ABN", "AuAbnRecognizer", "AU"),
        Kind("AU_ACN", "AuAcnRecognizer", "AU"),
        Kind("AU_MEDICARE", "AuMedicareRecognizer", "AU"),
        Kind("AU_TFN", "AuTfnRecognizer", "AU"),
        Kind("CA_SIN", "CaSinRecognizer", "CA"),
        Kind("DE_SOCIAL_SECURITY", "DeSocialSecurityRecognizer", "DE"),
        Kind("DE_TAX_ID", "DeTaxIdRecognizer", "DE"),
        Kind("ES_NIE", "EsNieRecognizer", "ES"),
        Kind("ES_NIF", "EsNifRecognizer", "ES"),
        Kind("FI_PERSONAL_IDENTITY_CODE", "FiPersonalIdentityCodeRecognizer", "FI"),
        Kind("IN_AADHAAR", "InAadhaarRecognizer", "IN"),
        Kind("IN_PAN", "InPanRecognizer", "IN"),
        Kind("IT_FISCAL_CODE", "ItFiscalCodeRecognizer", "IT"),
        Kind("KR_RRN", "KrRrnRecognizer", "KR"),
        Kind("PL_PESEL", "PlPeselRecognizer", "PL"),
        Kind("SE_PERSONNUMMER", "SePersonnummerRecognizer", "SE"),
        Kind("SG_NRIC_FIN", "SgFinRecognizer", "SG"),
        Kind("TH_TNIN", "ThTninRecognizer", "TH"),
        Kind("TR_NATIONAL_ID", "TrNationalIdRecognizer", "TR"),
        Kind("UK_NHS", "NhsRecognizer", "GB"),
        Kind("UK_NINO", "UkNinoRecognizer", "GB"),
        Kind("US_ITIN", "UsItinRecognizer", "US"),
        Kind("US_MBI", "UsMbiRecognizer", "US"),
        Kind("US_SSN", "UsSsnRecognizer", "US"),
        Kind("ZA_ID_NUMBER", "ZaIdNumberRecognizer", "ZA"),
    )
}
USUAL = (
    EMAIL_ADDRESS,
    PHONE_NUMBER,
    "CREDIT_CARD",
    IBAN_CODE,
    "IP_ADDRESS",
    URL_WITH_LOGIN,
    ACCESS_TOKEN,
)
USUAL_REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")  # Presidio's


def check_kinds(names: tuple[str, ...]) -> None:
    """Refuse kinds that are not offered.

    Args:
        names: The kinds.

    Raises:
        SettingError: One is unknown, named twice, or there is none.
    """
    check_known(names, KINDS, "kinds of personal data")
    if not names or len(set(names)) < len(names):
        raise SettingError("kinds must name at least one kind of personal data, and none twice.")


def check_regions(names: tuple[str, ...]) -> None:
    """Refuse regions that phone numbers are not known of.

    Args:
        names: Two letters each.

    Raises:
        SettingError: One is unknown, or there is none.
    """
    import phonenumbers

    check_known(names, phonenumbers.SUPPORTED_REGIONS, "phone_regions")
    if not names:
        raise SettingError("phone_regions must name at least one region, for example DE.")
