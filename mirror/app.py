"""The composition root: the one module that knows every class and puts an agent together.

Resources are owned by an exit stack, tasks by a task group. A task that fails ends the process, loudly: dying is safe
here, since the runtime falls back to the registry and the supervisor restarts the agent.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import signal
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from gossip import ClusterSecret, Config, Node
from mirror.all_or_nothing import AllOrNothing
from mirror.authorization import Authorization
from mirror.belonging import Belonging
from mirror.bootstrap import Bootstrap
from mirror.choice import Standing
from mirror.cluster import PEER_PORT, PEER_TLS, Cluster
from mirror.control import control_routes
from mirror.doors import LoopbackDoor, PeerDoor
from mirror.elements import group_of
from mirror.explain import Explainer
from mirror.feed import Feed
from mirror.gate import Gate, Switched
from mirror.herd import Claims, Coordinator, Herd, Pace, SharedTags
from mirror.herd.watch import HerdWatch, Parts
from mirror.http_server import HttpServer
from mirror.journal import Journal
from mirror.known_lists import KnownLists
from mirror.live import LiveSettings
from mirror.local_api import (
    PREFIX,
    answer_explain,
    answer_herd,
    answer_last,
    answer_node,
    answer_part,
    create_local_api,
)
from mirror.metered import Metered
from mirror.metrics import CONTENT_TYPE, Metrics
from mirror.page import PAGE_PREFIX, create_page
from mirror.page_door import TokenDoor, read_token
from mirror.peer_mac import KEY_LABEL, PeerMac
from mirror.peer_tls import PeerTls
from mirror.peers import Peers
from mirror.pull import Pull
from mirror.registry import create_registry
from mirror.single_flight import InFlight, Transfers
from mirror.sizes import Sized
from mirror.source import FirstOf
from mirror.spool import Spool
from mirror.stores.containerd import ContainerdSettings, ContainerdStore
from mirror.stores.oci_layout import OciLayout
from mirror.suspicion import Suspicion, TrustedIndex
from mirror.tags import Tags
from mirror.upload_rate import Paced, UploadRate
from mirror.upload_slots import Surroundings, UploadSlots
from mirror.upstream import Upstream
from mirror.version import installed_version
from mirror.views import Views
from mirror.watchdog import EXIT_CODE, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request

    from mirror.policy import Policy
    from mirror.settings import Settings
    from mirror.source import Source
    from mirror.stores import Store

log = logging.getLogger(__name__)

LISTING_S_MAX: Final = 2.0
"""How long the start waits for the store's first listing; a runtime that is away must not keep the agent away."""


async def run_agent(settings: Settings, load: Callable[[], Settings], file: Path | None) -> int:
    """Run an agent until SIGTERM or SIGINT; returns the process's exit code.

    `load` reads the settings again when `file` changes, or at SIGHUP; it raises `mirror.settings.SettingsError`.

    Raises `mirror.http_server.ListenError`, `gossip.GossipError` and `OSError`, alone or in a group, when it cannot
    start or go on.
    """
    stopping, stalled = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)

    def on_stall() -> None:
        stalled.set()
        stopping.set()

    metrics = Metrics(settings.zone, installed_version())
    live = LiveSettings(settings, load, file, metrics.live())
    loop.add_signal_handler(signal.SIGHUP, live.reload)
    store = create_store(settings)
    secret = ClusterSecret.from_file(settings.secret_file) if settings.secret_file else None
    bootstrap = Bootstrap(settings.seeds, settings.own_seed, os.environ)
    node = Node(gossip_config(settings, bootstrap.fixed, secret), group_of=group_of, more_seeds=bootstrap.seeds)
    metrics.collect_from(node)
    cluster = Cluster(node)
    suspicion = Suspicion(time.monotonic, lambda: store.answering_since, metrics.suspicion())
    async with AsyncExitStack() as stack:
        faces = await create_servers(
            stack,
            live,
            settings,
            metrics,
            store=store,
            node=node,
            cluster=cluster,
            suspicion=suspicion,
            secret=secret,
            stopping=stopping.is_set,
        )
        telling = HttpServer(create_metrics_page(metrics), settings.address, settings.metrics_port, 1)
        servers = [*faces, telling]
        for server in servers:
            server.bind()
        watchdog = Watchdog(
            loop, [server.socket for server in servers if server.socket], on_stall, metrics.loop_lag.observe
        )
        watchdog.start()
        stack.callback(watchdog.stop)
        membership = await stack.enter_async_context(AsyncExitStack())
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(cluster.advertise(store, suspicion.heard, metrics.store_event)),
                tasks.create_task(cluster.hearsay.keep_tidy()),
                tasks.create_task(live.watch()),
            ]
            # What the store has when the node joins need not be sent to those who remember it from before.
            with suppress(TimeoutError):
                await asyncio.wait_for(cluster.listed.wait(), LISTING_S_MAX)
            await membership.enter_async_context(node)
            background.append(tasks.create_task(node.run()))
            seeking = tasks.create_task(bootstrap.run(settings.name, lambda: [other.name for other in node.members()]))
            # What is there by now stays, and need not be looked at in each full collection, which would hold the loop.
            gc.freeze()
            *serving, told = [tasks.create_task(server.serve()) for server in servers]
            log.info("%s answers pulls on %s port %d", settings.name, settings.client_address, settings.client_port)
            await stopping.wait()
            log.info("stopping: leaving the cluster, then at most %.0f s for running transfers", settings.grace_s)
            seeking.cancel()
            await membership.aclose()
            for face in faces:
                face.stop()
            await asyncio.wait(serving)
            # The last to go: until then it counts what is still sent.
            telling.stop()
            await told
            for task in background:
                task.cancel()
    return EXIT_CODE if stalled.is_set() else 0


async def create_servers(
    stack: AsyncExitStack,
    live: LiveSettings,
    settings: Settings,
    metrics: Metrics,
    *,
    store: Store,
    node: Node,
    cluster: Cluster,
    suspicion: Suspicion,
    secret: ClusterSecret | None,
    stopping: Callable[[], bool],
) -> list[HttpServer]:
    """The client face, which answers from everywhere, and the peer face, which answers from this node alone.

    And the client face once more for each registry that has a port, and the live page for other machines, if it has a
    token.
    """

    def policy() -> Policy:
        return live.policy if cluster.hearsay.mirroring else replace(live.policy, mirroring=False)

    tls = PeerTls(settings.peer_tls) if settings.peer_tls else None
    mac = PeerMac(*secret.derive_all(KEY_LABEL)) if secret else None
    standing = Standing(settings.zone, random.Random(), time.monotonic)  # noqa: S311 (spreads load)
    index = TrustedIndex(cluster, suspicion)
    peers = await stack.enter_async_context(
        Peers(index, mac, standing, settings.name, fetched=metrics.fetched_from_peer, tls=tls)
    )
    upstream = await stack.enter_async_context(Upstream(live.registries))
    registries = Metered(upstream, metrics.fetched)
    journal = Journal()
    transfers = await stack.enter_async_context(
        Transfers(Spool(settings.spool_dir, settings.spool_bytes_max), store, suspicion.blame)
    )
    metrics.watch_store(lambda: settings.store != "containerd" or store.answering_since is not None)
    metrics.show_mirroring(lambda: policy().mirroring)
    metrics.count_transfers(lambda: len(transfers))
    pace = Pace(transfers.ahead, time.monotonic)
    coordinator = Coordinator(cluster.alive, pace, time.monotonic)
    node.answer_with(coordinator.answer)
    claims = Claims(node, cluster.roster)
    stack.push_async_callback(claims.aclose)
    herd = Herd(peers, registries, index, claims, pace)
    parts = Parts(node, journal, transfers, coordinator.leaders, suspicion.given)
    watch = HerdWatch(parts.of, peers, cluster)
    holdings = Belonging(store, policy)
    pull = Sized(
        Pull(
            holdings,
            peers,
            registries,
            herd,
            transfers=transfers,
            suspicion=suspicion,
            relayed=watch.relayed,
            verify_all=settings.verify == "always",
        ),
        herd.expect,
    )
    authorization = Authorization(registries, policy, clock=time.time, key=secrets.token_bytes(32))
    tags = Tags(
        pull,
        SharedTags(registries, claims, random.Random()),  # noqa: S311 (spreads load)
        authorization,
        cluster.hearsay,
        policy,
        remember=store.remember,
        clock=time.time,
    )
    lists = KnownLists(upstream, authorization, cluster.hearsay, holdings, policy, clock=time.time)
    gate = Gate(pull, lists, tags, authorization, policy)

    client_face, peer_face = metrics.face("client"), metrics.face("peer")
    create_client = partial(
        create_registry,
        AllOrNothing(gate),
        journal.face("client", client_face),
        [Middleware(LoopbackDoor, observer=client_face)],
        lists=gate,
    )
    client_app = create_client()
    client_app.routes.extend([*probe_routes(stopping), *control_routes(live, cluster.hearsay, time.time)])
    in_flight = InFlight(transfers)
    explainer = Explainer(holdings, in_flight, peers, upstream, cluster, index, standing, journal, policy)
    views = Views(node, cluster, settings, metrics, journal, transfers, lambda: store.answering_since, time.monotonic())
    answers = {
        "node": answer_node(
            node,
            settings,
            store,
            peers,
            refused=lambda: metrics.refusals("peer", "mac", "no_mac"),
            switches=lambda: {"here": live.mirroring, "everywhere": cluster.hearsay.mirroring},
        ),
        "last": answer_last(journal),
        "explain": answer_explain(explainer),
        "herd": answer_herd(watch),
    }
    shown = [
        Mount(PREFIX, create_local_api(answers | views.answers(), Feed(views, stopping))),
        Mount(PAGE_PREFIX, create_page()),
    ]
    client_app.routes.extend(shown)
    metrics.upload_slots.set(settings.upload_slots)
    given: Source = Switched(FirstOf([holdings, in_flight]), policy)
    if settings.upload_rate:
        given = Paced(given, UploadRate(settings.upload_rate))
    around = Surroundings(peers.alternatives, transfers.lineage, cluster.near, pace.is_slow)
    slots = Middleware(UploadSlots, observer=peer_face, slots=settings.upload_slots, surroundings=around)
    door = [Middleware(PeerDoor, observer=peer_face, mac=mac, me=cluster.me)] if mac else []
    peer_app = create_registry(given, journal.face("peer", peer_face), [*door, slots])
    peer_app.mount("/-", create_local_api({"herd": answer_part(parts.of)}))
    servers = [
        HttpServer(client_app, settings.client_address, settings.client_port, settings.grace_s, observer=client_face),
        HttpServer(
            peer_app,
            settings.address,
            settings.peer_port,
            settings.grace_s,
            observer=peer_face,
            tls=tls.server_context() if tls else None,
        ),
        *(
            HttpServer(
                create_client(itself=each.registry, greet=partial(upstream.greet, each.registry)),
                settings.client_address,
                each.port,
                settings.grace_s,
                observer=client_face,
            )
            for each in settings.registry_ports
        ),
    ]
    if settings.page_token_file is not None:
        servers.append(create_page_server(settings, read_token(settings.page_token_file), shown, metrics))
    return servers


def create_page_server(settings: Settings, token: str, shown: list[Mount], metrics: Metrics) -> HttpServer:
    """The live page for other machines."""
    face = metrics.face("page")
    app = Starlette(routes=shown, middleware=[Middleware(TokenDoor, observer=face, token=token)])
    return HttpServer(app, settings.address, settings.page_port, settings.grace_s, observer=face)


def create_store(settings: Settings) -> Store:
    """The store that the settings name."""
    if settings.store == "containerd":
        return ContainerdStore(
            ContainerdSettings(
                socket=settings.containerd_socket,
                namespaces=settings.containerd_namespaces,
                content_dir=settings.containerd_content_dir,
                pin_bytes_max=settings.containerd_pin_bytes_max,
            )
        )
    return OciLayout(settings.layout_dir, settings.layout_bytes_max)


def gossip_config(settings: Settings, seeds: tuple[str, ...], secret: ClusterSecret | None) -> Config:
    """What the gossip node needs to know."""
    return Config(
        name=settings.name,
        cluster=settings.cluster,
        bind_address=settings.address,
        advertise_address=settings.advertise_address,
        publish_port=settings.publish_port,
        router_port=settings.router_port,
        zone=settings.zone,
        attributes={PEER_PORT: str(settings.peer_port)} | ({PEER_TLS: "1"} if settings.peer_tls else {}),
        seeds=seeds,
        secret=secret,
        epoch_file=settings.epoch_file,
    )


def probe_routes(stopping: Callable[[], bool]) -> list[Route]:
    """`/livez`, which answers as long as the loop turns; `/readyz`, 200 until the agent stops. Peers are not asked for.

    They are on the client face, since that is what pulls on this node depend on.
    """

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("stopping\n", 503) if stopping() else PlainTextResponse("ok\n")

    return [Route("/livez", livez), Route("/readyz", readyz)]


def create_metrics_page(metrics: Metrics) -> Starlette:
    """`/metrics`, for Prometheus."""

    async def page(_: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return Starlette(routes=[Route("/metrics", page)])
