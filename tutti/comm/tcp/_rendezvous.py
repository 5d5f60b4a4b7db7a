"""How the ranks of one host get connected: in shared memory they learn the run's token, which leaves it at once, and
at which loopback port, chosen by the system, each of them listens until all are there.
"""

from __future__ import annotations

import struct
from time import monotonic

from tutti._frames import Channel, Door, PeerError, PeerLate, connect, listen
from tutti._secure import TOKEN_BYTES, Credentials, Token
from tutti.comm.shm import ShmComm
from tutti.errors import Aborted
from tutti.protocols import Link

_HELLO = 1
_RANK = struct.Struct("<q")
_MEET_SECONDS = 60.0
_LOOK_SECONDS = 0.05


def meet(link: Link, *, plain: bool = False) -> dict[int, Channel]:
    """Return connections to the other ranks, which are on this host; every rank calls it.

    Parameters
    ----------
    plain : without encryption, which nothing but a measurement asks for.
    """
    if link.size == 1:
        return {}
    first = ShmComm(link)
    credentials = None if plain else Credentials(_token(first, link.rank))
    door = Door(listen(credentials=credentials), credentials)
    peers: dict[int, Channel] = {}
    try:
        ports = [int(said) for said in first.all_gather(str(door.address[1]).encode())]
        for rank in range(link.rank):
            peers[rank] = connect(
                (door.address[0], ports[rank]), credentials, seconds=_MEET_SECONDS, peer=f"rank {rank}"
            )
            peers[rank].send(_HELLO, _RANK.pack(link.rank), seconds=_MEET_SECONDS)
        _admit(door, link, peers)
        first.barrier()
    except BaseException as error:
        for channel in peers.values():
            channel.close()
        if isinstance(error, PeerError):
            link.abort()
            raise Aborted(f"rank {link.rank}: the ranks could not be connected: {error}") from error
        raise
    finally:
        door.close()
        first.close()
    return peers


def _token(first: ShmComm, rank: int) -> Token:
    """Agree on the token that rank 0 makes up."""
    memory = first.memory(TOKEN_BYTES)
    if rank == 0:
        memory[:] = list(bytes(Token.new()))
    first.barrier()
    token = Token(memory.tobytes())
    first.barrier()
    if rank == 0:
        memory[:] = 0
    return token


def _admit(door: Door, link: Link, peers: dict[int, Channel]) -> None:
    """Let the later ranks in; whoever else comes is refused."""
    deadline = monotonic() + _MEET_SECONDS
    while len(peers) < link.size - 1:
        if link.board.aborted():
            raise Aborted(f"rank {link.rank}: the run was stopped while its ranks were being connected")
        if monotonic() > deadline:
            missing = sorted(set(range(link.size)) - {link.rank, *peers})
            raise PeerLate(f"rank {missing[0]}", f"did not connect within {_MEET_SECONDS:g} s")
        for channel in door.admit(_LOOK_SECONDS):
            try:
                hello = channel.receive(seconds=_MEET_SECONDS)
                (rank,) = _RANK.unpack(hello.payload)
            except (PeerError, struct.error) as error:
                door.refuse(channel.peer, str(error))
                channel.close()
                continue
            if hello.kind != _HELLO or not link.rank < rank < link.size or rank in peers:
                door.refuse(channel.peer, f"it says to be rank {rank}")
                channel.close()
                continue
            channel.peer = f"rank {rank}"
            peers[rank] = channel
