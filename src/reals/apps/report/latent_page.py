"""The page of an analysis."""
from pathlib import Path
def write_analysis_page(directory: Path) -> Path:
    """x"""
    return directory / "analysis.html"
