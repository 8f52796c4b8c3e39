"""Coverage-guided fuzzing of every parser that reads from a store, and the corpus that each test run replays."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
