//! Unix sockets, which need no network.

use std::fs::File;
use std::io::{IoSliceMut, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::attempt::{Failure, escapes, meet};

const TEXT: &[u8] = b"escaped";

escapes! { "sockets":
    /// Connects to an abstract Unix socket of a process outside.
    fn connect_abstract(at) {
        let name = SocketAddr::from_abstract_name(at.text("abstract")?)?;
        UnixStream::connect_addr(&name)?.write_all(TEXT)?;
        Ok("sent".into())
    }

    /// Sends a datagram to an abstract Unix socket of a process outside.
    fn send_abstract(at) {
        let name = SocketAddr::from_abstract_name(at.text("abstract-datagram")?)?;
        UnixDatagram::unbound()?.send_to_addr(TEXT, &name)?;
        Ok("sent".into())
    }

    /// Connects to a Unix socket of a process outside that has a path.
    fn connect_path(at) {
        UnixStream::connect(at.outside("socket")?)?.write_all(TEXT)?;
        Ok("sent".into())
    }

    /// Sends a datagram to a Unix socket of a process outside that has a path.
    fn send_path(at) {
        UnixDatagram::unbound()?.send_to(TEXT, at.outside("datagram")?)?;
        Ok("sent".into())
    }

    /// Receives a descriptor from a process outside (`SCM_RIGHTS`).
    fn receive_descriptor(at) {
        let socket = UnixStream::connect(at.outside("socket")?)?;
        meet("connected");
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::DONTWAIT)?;
        let received = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let received = received.ok_or_else(|| Failure::NoEffect("no descriptor came".into()))?;
        let mut text = String::new();
        File::from(received).read_to_string(&mut text)?;
        Ok(text)
    }
}
