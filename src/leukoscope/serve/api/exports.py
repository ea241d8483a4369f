"""Exports of a case."""

from fastapi import APIRouter

router = APIRouter(tags=["exports"])
