"""`/.well-known/jwks.json`: the public keys of access tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.auth.auth_models import KeySet
from api.dependencies import SignerDependency
from api.http.query_strings import NoQuery
from api.openapi.operations import problem_responses

router = APIRouter(tags=["auth"])


@router.get(
    "/.well-known/jwks.json",
    summary="Get the public keys of access tokens",
    response_model=KeySet,
    response_description="A JSON Web Key Set (RFC 7517).",
    responses=problem_responses("validation", "unavailable"),
)
async def get_keys(request: Request, signer: SignerDependency, query: Annotated[NoQuery, Query()]) -> Response:
    """Return the keys by which access tokens can be verified. A key stays until the last token that it signed has expired."""
    answer = KeySet.model_validate(await signer.key_set())
    headers = {"Cache-Control": "public, max-age=60"}
    return Response(answer.model_dump_json(), headers=headers, media_type="application/json")
