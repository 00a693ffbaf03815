from ._ffi import ffi as ffi
from ._ffi import lib as lib
from .enums import AcceptFlag as AcceptFlag
from .enums import BufferRingFlag as BufferRingFlag
from .enums import CancelFlag as CancelFlag
from .enums import CqeFlag as CqeFlag
from .enums import CqRingFlag as CqRingFlag
from .enums import EnterFlag as EnterFlag
from .enums import Feature as Feature
from .enums import FixedFdFlag as FixedFdFlag
from .enums import FsyncFlag as FsyncFlag
from .enums import FutexFlag as FutexFlag
from .enums import MsgRingCommand as MsgRingCommand
from .enums import MsgRingFlag as MsgRingFlag
from .enums import NopFlag as NopFlag
from .enums import Op as Op
from .enums import PollFlag as PollFlag
from .enums import RegisterOp as RegisterOp
from .enums import SendRecvFlag as SendRecvFlag
from .enums import SetupFlag as SetupFlag
from .enums import SocketOp as SocketOp
from .enums import SpliceFlag as SpliceFlag
from .enums import SqeFlag as SqeFlag
from .enums import SqRingFlag as SqRingFlag
from .enums import TimeoutFlag as TimeoutFlag
from .enums import UringCmdFlag as UringCmdFlag
from .probing import Probe as Probe
from .probing import probe as probe

__all__ = [
    "AcceptFlag",
    "BufferRingFlag",
    "CancelFlag",
    "CqRingFlag",
    "CqeFlag",
    "EnterFlag",
    "Feature",
    "FixedFdFlag",
    "FsyncFlag",
    "FutexFlag",
    "MsgRingCommand",
    "MsgRingFlag",
    "NopFlag",
    "Op",
    "PollFlag",
    "Probe",
    "RegisterOp",
    "SendRecvFlag",
    "SetupFlag",
    "SocketOp",
    "SpliceFlag",
    "SqRingFlag",
    "SqeFlag",
    "TimeoutFlag",
    "UringCmdFlag",
    "ffi",
    "lib",
    "probe",
]
