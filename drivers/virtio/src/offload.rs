//! What the header in front of each network frame says (virtio 1.2, 5.1.6).
//!
//! ```text
//! 0 flags u8 | 1 gso_type u8 | 2 hdr_len u16 | 4 gso_size u16 | 6 csum_start u16 | 8 csum_offset u16 | 10 buffers u16
//! ```
//!
//! To let the device finish a TCP or UDP checksum, the driver puts the sum over the pseudo-header (addresses, protocol,
//! length) in the checksum field and says where the sum starts and where it goes.

use world::FrameMeta;

/// Bytes of the header, since virtio 1.0 always with the number of buffers.
pub const HEADER_BYTES: usize = 12;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const SEGMENT_TCP4: u8 = 1;

const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// More extension headers than this in front of TCP or UDP are not worth an offload.
const IPV6_EXTENSIONS_MAX: usize = 8;

/// Makes the header for `frame`, which is about to be sent, and prepares the frame's checksum field.
pub fn transmit_header(frame: &mut [u8], meta: FrameMeta) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    if !meta.checksum_wanted && meta.segmentation.is_none() {
        return header;
    }
    let Some(upper) = find_upper(frame) else {
        return header;
    };
    let field = upper.start + upper.checksum_offset();
    frame[field..field + 2].copy_from_slice(&upper.pseudo_sum.to_be_bytes());
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&(upper.start as u16).to_le_bytes());
    header[8..10].copy_from_slice(&(upper.checksum_offset() as u16).to_le_bytes());
    if let Some(segmentation) = meta.segmentation
        && upper.is_tcp4()
    {
        let headers = upper.start + tcp_header_bytes(&frame[upper.start..]);
        let payload = frame.len().saturating_sub(headers);
        if segmentation.segment_bytes > 0 && payload > usize::from(segmentation.segment_bytes) {
            header[1] = SEGMENT_TCP4;
            header[2..4].copy_from_slice(&(headers as u16).to_le_bytes());
            header[4..6].copy_from_slice(&segmentation.segment_bytes.to_le_bytes());
        }
    }
    header
}

/// Reads the header of a received frame. A checksum that is still to be filled in never crossed a wire.
pub fn receive_meta(header: &[u8]) -> FrameMeta {
    FrameMeta {
        checksum_valid: header[0] & (NEEDS_CHECKSUM | DATA_VALID) != 0,
        ..FrameMeta::default()
    }
}

/// The TCP or UDP header of a frame.
struct Upper {
    /// Where it starts in the frame.
    start: usize,
    protocol: u8,
    version: u8,
    /// The sum over the pseudo-header, folded, not inverted.
    pseudo_sum: u16,
}

impl Upper {
    fn checksum_offset(&self) -> usize {
        if self.protocol == PROTOCOL_TCP { 16 } else { 6 }
    }

    fn header_bytes_min(&self) -> usize {
        if self.protocol == PROTOCOL_TCP { 20 } else { 8 }
    }

    fn is_tcp4(&self) -> bool {
        self.protocol == PROTOCOL_TCP && self.version == 4
    }
}

fn tcp_header_bytes(tcp: &[u8]) -> usize {
    usize::from(tcp[12] >> 4) * 4
}

fn find_upper(frame: &[u8]) -> Option<Upper> {
    let mut at = 12;
    if read16(frame, at)? == ETHERTYPE_VLAN {
        at += 4;
    }
    let upper = match read16(frame, at)? {
        ETHERTYPE_IPV4 => find_upper_ipv4(frame, at + 2),
        ETHERTYPE_IPV6 => find_upper_ipv6(frame, at + 2),
        _ => None,
    }?;
    (frame.len() - upper.start >= upper.header_bytes_min()).then_some(upper)
}

fn find_upper_ipv4(frame: &[u8], at: usize) -> Option<Upper> {
    let ip = frame.get(at..)?;
    let header = ip.get(..20)?;
    let header_bytes = usize::from(header[0] & 0xf) * 4;
    let total_bytes = usize::from(read16(ip, 2)?);
    let is_fragment = read16(ip, 6)? & 0x3fff != 0;
    if header[0] >> 4 != 4 || header_bytes < 20 || is_fragment || total_bytes > ip.len() {
        return None;
    }
    let upper_bytes = total_bytes.checked_sub(header_bytes)?;
    upper(
        4,
        header[9],
        at + header_bytes,
        upper_bytes,
        &header[12..20],
    )
}

fn find_upper_ipv6(frame: &[u8], at: usize) -> Option<Upper> {
    let ip = frame.get(at..)?;
    let header = ip.get(..40)?;
    let total_bytes = 40 + usize::from(read16(ip, 4)?);
    if header[0] >> 4 != 6 || total_bytes > ip.len() {
        return None;
    }
    let (mut next, mut offset) = (header[6], 40);
    for _ in 0..IPV6_EXTENSIONS_MAX {
        match next {
            // Hop-by-hop options, destination options. A routing header changes the destination that is summed.
            0 | 60 => {
                let extension = ip.get(offset..offset + 2)?;
                next = extension[0];
                offset += (usize::from(extension[1]) + 1) * 8;
            }
            protocol => {
                let upper_bytes = total_bytes.checked_sub(offset)?;
                return upper(6, protocol, at + offset, upper_bytes, &header[8..40]);
            }
        }
    }
    None
}

fn upper(version: u8, protocol: u8, start: usize, len: usize, addresses: &[u8]) -> Option<Upper> {
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
        return None;
    }
    let mut sum = u32::from(protocol) + len as u32;
    for pair in addresses.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    Some(Upper {
        start,
        protocol,
        version,
        pseudo_sum: sum as u16,
    })
}

fn read16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests;
