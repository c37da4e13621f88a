"""The address of a store for other machines has all but its secrets."""

import pytest

from fusion.core.errors import UsageError
from fusion.store.open import is_same_database, open_store
from fusion.store.postgres.address import Address


@pytest.mark.parametrize(
    ("url", "shared", "secrets"),
    [
        ("postgresql://ann:s3cret@db:5433/runs", "postgresql://ann@db:5433/runs", {"PGPASSWORD": "s3cret"}),
        ("postgresql://ann@db/runs?password=s3%20cret", "postgresql://ann@db/runs", {"PGPASSWORD": "s3 cret"}),
        ("postgresql://db/runs?sslmode=require", "postgresql://db/runs?sslmode=require", {}),
        (
            "postgresql://a@/runs?host=/run/pg&sslpassword=x&passfile=/k/p%20f",
            "postgresql://a@/runs?host=/run/pg&passfile=%2Fk%2Fp%20f",
            {},
        ),
        ("postgres://ann@one,two:5433/runs", "postgresql://ann@one,two:5433/runs", {}),
        ("postgresql:///runs", "postgresql:///runs", {}),
        ("postgresql://ann@[::1]:5432/a%20b", "postgresql://ann@[::1]:5432/a%20b", {}),
    ],
)
def test_what_other_machines_are_told_of_a_database(url: str, shared: str, secrets: dict[str, str]) -> None:
    address = Address.of(url).shared
    assert (address.url, address.secrets) == (shared, secrets)
    again = Address.of(address.url)
    assert again.shared.url == shared
    assert is_same_database(url, address.url)


def test_a_file_has_no_address_for_other_machines(tmp_path: object) -> None:
    store = open_store(f"{tmp_path}/runs.db")
    try:
        with pytest.raises(UsageError, match=r"file of this machine.*--store postgresql://"):
            _ = store.address
    finally:
        store.close()
