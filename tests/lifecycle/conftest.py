"""The lab of the integration tests, and its logs in the report of a test that fails."""

from tests.integration.conftest import lab, pytest_runtest_makereport

__all__ = ["lab", "pytest_runtest_makereport"]
