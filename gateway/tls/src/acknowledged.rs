//! How much the other end of a TCP connection has acknowledged. What the kernel took from a writer tells less: it takes more
//! than a megabyte at once and lets the writer wait until a third of that has gone.

use nix::getsockopt_impl;
use nix::sys::socket::GetSockOpt;
use nix::sys::socket::sockopt::GetStruct;
use tokio::net::TcpStream;

/// The beginning of `struct tcp_info` of linux/tcp.h, as every kernel since Linux 4.1 gives it.
type TcpInfo = [u64; 16];

/// Where `tcpi_bytes_acked` is in it (RFC 4898, tcpEStatsAppHCThruOctetsAcked).
const BYTES_ACKED: usize = 15;

#[derive(Clone, Copy)]
struct Acknowledged;

getsockopt_impl!(Acknowledged, libc::IPPROTO_TCP, libc::TCP_INFO, TcpInfo, GetStruct<TcpInfo>);

/// Bytes that the other end has acknowledged since the connection was made; none where the socket does not tell.
pub(crate) fn acknowledged(tcp: &TcpStream) -> u64 {
    Acknowledged.get(tcp).map_or(0, |info| info[BYTES_ACKED])
}
