"""The page that answers a user's question about a run: did alignment help on my data, by how much, how sure is that?"""

from reals.apps.report.page import write_report

__all__ = ["write_report"]
