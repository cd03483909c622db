//! Sockets of every family that leads somewhere.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};

use crate::attempt::{Attempt, Failure, Outside, escapes, meet};
use crate::sys::{call, owned};

const TEXT: &[u8] = b"escaped";

fn loopback(at: &Outside, key: &str) -> Result<SocketAddrV4, Failure> {
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, at.number(key)?))
}

fn connect_by(at: &Outside, protocol: Protocol) -> Attempt {
    let kind = SocketType::STREAM;
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::empty(), Some(protocol))?;
    rustix::net::connect(&socket, &loopback(at, "tcp")?)?;
    TcpStream::from(socket).write_all(TEXT)?;
    Ok("sent".into())
}

/// A socket without a type of its own in the standard library.
fn raw(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Errno> {
    owned(call!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol)?)
}

/// Waits for a connection that the outside is asked to make.
fn visited(listener: &TcpListener) -> Attempt {
    listener.set_nonblocking(true)?;
    meet(&listener.local_addr()?.port().to_string());
    listener.accept()?.0.write_all(TEXT)?;
    Ok("a connection came".into())
}

/// `struct sockaddr_in` of a port of the loopback.
fn address(port: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = 2;
    bytes[2..4].copy_from_slice(&port.to_be_bytes());
    bytes[4..8].copy_from_slice(&[127, 0, 0, 1]);
    bytes
}

escapes! { "network":
    /// Connects by TCP.
    fn connect_tcp(at) {
        connect_by(at, ipproto::TCP)
    }

    /// Connects by multipath TCP, which Landlock does not know.
    fn connect_mptcp(at) {
        connect_by(at, ipproto::MPTCP)
    }

    /// Connects by the first data of TCP fast open, without connect.
    fn connect_fast_open(at) {
        let socket = raw(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let to = address(at.number("tcp")?);
        call!(libc::SYS_sendto, &socket, TEXT, TEXT.len(), libc::MSG_FASTOPEN, &to, to.len())?;
        Ok("sent".into())
    }

    /// Connects by SCTP.
    fn connect_sctp(at) {
        connect_by(at, ipproto::SCTP)
    }

    /// Sends a datagram by UDP.
    fn send_udp(at) {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(TEXT, loopback(at, "udp")?)?;
        Ok("sent".into())
    }

    /// Takes connections on a TCP port of its own.
    fn listen_tcp(_) {
        visited(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?)
    }

    /// Takes connections on a TCP port that listen chose, without bind.
    fn listen_unbound(_) {
        let socket = raw(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        call!(libc::SYS_listen, &socket, 1)?;
        visited(&TcpListener::from(socket))
    }

    /// Takes datagrams on a UDP port of its own.
    fn receive_udp(_) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        meet(&socket.local_addr()?.port().to_string());
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Makes a raw socket.
    fn raw_socket(_) {
        raw(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
        Ok("made".into())
    }

    /// Makes a packet socket, which hears every interface.
    fn packet_socket(_) {
        raw(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        Ok("made".into())
    }

    /// Learns the network's interfaces by netlink.
    fn netlink_interfaces(_) {
        let socket = raw(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
        // nlmsghdr: length, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP; then an ifinfomsg of zeros.
        let mut request = [0; 32];
        request[0] = 32;
        request[4] = 18;
        request[6..8].copy_from_slice(&0x301_u16.to_ne_bytes());
        call!(libc::SYS_sendto, &socket, &request, request.len(), 0, 0, 0)?;
        let mut indices = BTreeSet::new();
        let mut answer = [0; 16384];
        loop {
            let length = call!(libc::SYS_recvfrom, &socket, &mut answer, 16384, 0, 0, 0)?;
            let mut rest = &answer[..usize::try_from(length).unwrap_or(0)];
            while rest.len() >= 20 {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if rest[4] == 3 {
                    // NLMSG_DONE. The loopback is the first of every network namespace.
                    indices.remove(&1);
                    let none = || Failure::NoEffect("nothing but a loopback".into());
                    return indices.first().map(|_| format!("{indices:?}")).ok_or_else(none);
                }
                if rest[4] == 2 {
                    return Err(Failure::NoEffect("netlink answered with an error".into()));
                }
                // Of an ifinfomsg, after the header.
                let index = rest.get(20..24).and_then(|bytes| bytes.try_into().ok());
                indices.extend(index.map(i32::from_ne_bytes));
                rest = rest.get(size.next_multiple_of(4).max(16)..).unwrap_or_default();
            }
        }
    }

    /// Binds a socket to the hypervisor, which no network namespace divides.
    fn bind_vsock(_) {
        let socket = raw(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
        let mut any = [0xff; 16];
        any[..4].copy_from_slice(&[40, 0, 0, 0]);
        any[12..].fill(0);
        call!(libc::SYS_bind, &socket, &any, any.len())?;
        Ok("bound".into())
    }

    /// Makes a socket to the kernel's ciphers.
    fn cipher_socket(_) {
        raw(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)?;
        Ok("made".into())
    }
}
