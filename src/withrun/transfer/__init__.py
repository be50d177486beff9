"""Up- and downloads of artifacts: FileTransfer, and one module per route."""

from withrun.transfer.file_transfer import FileTransfer
from withrun.transfer.objmeta import ObjMeta
from withrun.transfer.paths import check_relative, inside
from withrun.transfer.urls import join_url

__all__ = ["FileTransfer", "ObjMeta", "check_relative", "inside", "join_url"]
