"""The ASGI application: routes, errors and layers, put together around an `ApiContext`."""

from __future__ import annotations

from fastapi import FastAPI

from blockgate import __version__
from blockgate.api.audit import Audit
from blockgate.api.bounds import BodyBounds
from blockgate.api.command_log import Masker
from blockgate.api.context import ApiContext
from blockgate.api.cut_off import CutOff
from blockgate.api.errors import error_responses, install_error_handlers
from blockgate.api.identify import Identify
from blockgate.api.requests import harmless_fields, known_fields
from blockgate.api.routes import (
    chap,
    config,
    exports,
    gateway,
    groups,
    monitoring,
    pools,
    sessions,
    targets,
    tls,
    volumes,
)

_DESCRIPTION = (
    "Every change takes a header `Operation-Id`: a request that is sent again with the same id is "
    "the same operation. Every error is `{error: {code, message, hint}}`."
)


def build_app(context: ApiContext) -> FastAPI:
    """The application; its documents and its metrics are made when they are first asked for."""
    app = FastAPI(
        title="blockgate",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
    )
    app.state.context = context
    install_error_handlers(app)
    of_any = error_responses(400, 401, 403, 422, 503)
    for module in (
        gateway,
        pools,
        volumes,
        exports,
        targets,
        groups,
        chap,
        sessions,
        config,
        tls,
    ):
        module.router.add_to(app, "/v1", of_any)
    monitoring.router.add_to(app)
    # The last one added is the outermost.
    app.add_middleware(
        Audit, command_log=context.command_log, masker=Masker(harmless_fields(), known_fields())
    )
    app.add_middleware(BodyBounds)
    app.add_middleware(Identify, authenticator=context.authenticator)
    app.add_middleware(CutOff)
    return app
