//! What users set for a volume: whether it takes writes, from where its clients may come, and how much they may do.
//!
//! Kept in one record of the store for each volume that has any, as lines of text:
//!
//! ```text
//! read-only
//! allow 10.0.0.0/8
//! iops 500
//! rate 10485760
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

use store::{StoreError, VolumeId, VolumeInfo};
use world::Disk;

use crate::{Limits, VolumeError, Volumes};

/// The most networks of one volume.
pub const ALLOW_MAX: usize = 32;
/// What keys of records of settings begin with.
const KEY: &str = "volume/";

/// What users set for a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Writes are refused.
    pub read_only: bool,
    /// From where clients may come; none means from anywhere.
    pub allow: Vec<Network>,
    /// How much clients may do in a second.
    pub limits: Limits,
}

/// A range of addresses, like `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether `peer` is in it. An IPv4 address that comes in the clothes of IPv6 is taken for what it is.
    #[must_use]
    pub fn contains(self, peer: IpAddr) -> bool {
        masked(peer.to_canonical(), self.prefix_bits) == Some(self.address)
    }
}

/// The first address of the network of `prefix_bits` that `address` is in, if there are such.
fn masked(address: IpAddr, prefix_bits: u8) -> Option<IpAddr> {
    let bits = u32::from(prefix_bits);
    Some(match address {
        IpAddr::V4(v4) => {
            let host = 32_u32.checked_sub(bits)?;
            let mask = u32::MAX.checked_shl(host).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let host = 128_u32.checked_sub(bits)?;
            let mask = u128::MAX.checked_shl(host).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    })
}

impl FromStr for Network {
    type Err = VolumeError;

    /// Reads `ADDRESS/BITS`, or an address alone.
    fn from_str(text: &str) -> Result<Self, VolumeError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| VolumeError::BadNetwork)?;
        let prefix_bits: u8 = match bits {
            Some(bits) => bits.parse().map_err(|_| VolumeError::BadNetwork)?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        // Clients are known by their IPv4 addresses, however these were written down.
        let (address, prefix_bits) = match address.to_canonical() {
            v4 if v4 != address => {
                let bits = prefix_bits.checked_sub(96).ok_or(VolumeError::BadNetwork)?;
                (v4, bits)
            }
            same => (same, prefix_bits),
        };
        let address = masked(address, prefix_bits).ok_or(VolumeError::BadNetwork)?;
        Ok(Self {
            address,
            prefix_bits,
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix_bits)
    }
}

impl Settings {
    /// Whether a client at `peer` may attach.
    #[must_use]
    pub fn admits(&self, peer: IpAddr) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(peer))
    }

    /// What admits no client: the unspecified address is nobody's.
    fn for_nobody() -> Self {
        Self {
            read_only: true,
            allow: alloc::vec![Network {
                address: Ipv6Addr::UNSPECIFIED.into(),
                prefix_bits: 128,
            }],
            limits: Limits::default(),
        }
    }

    /// As lines of text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if self.read_only {
            text.push_str("read-only\n");
        }
        for network in &self.allow {
            text.push_str(&format!("allow {network}\n"));
        }
        let Limits { iops, rate_bytes } = self.limits;
        for (name, limit) in [("iops", iops), ("rate", rate_bytes)] {
            if let Some(limit) = limit {
                text.push_str(&format!("{name} {limit}\n"));
            }
        }
        text
    }

    /// Reads what [`encode`](Self::encode) wrote.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut settings = Self::default();
        for line in core::str::from_utf8(bytes).ok()?.lines() {
            match line.split_once(' ') {
                None if line == "read-only" => settings.read_only = true,
                Some(("allow", network)) => settings.allow.push(network.parse().ok()?),
                Some(("iops", limit)) => settings.limits.iops = Some(limit.parse().ok()?),
                Some(("rate", limit)) => settings.limits.rate_bytes = Some(limit.parse().ok()?),
                _ => return None,
            }
        }
        settings.limits.is_valid().then_some(settings)
    }
}

impl<D: Disk + 'static> Volumes<D> {
    /// Reads the settings of all volumes; to be called before anybody attaches. Returns the names of volumes whose settings
    /// cannot be read: nobody may attach to these until they are set anew.
    pub async fn load(&self) -> Vec<String> {
        let mut unreadable = Vec::new();
        for key in self.store().record_keys() {
            let Some(id) = key.strip_prefix(KEY).and_then(|id| id.parse().ok()) else {
                continue;
            };
            let Some(volume) = self.store().volume(VolumeId(id)) else {
                // They went with their volume. Should this fail, the next start tries again.
                let _ = self.store().set_record(&key, None).await;
                continue;
            };
            let settings = match self.store().record(&key).await {
                Ok(Some(bytes)) => Settings::decode(&bytes),
                _ => None,
            };
            let settings = settings.unwrap_or_else(|| {
                unreadable.push(volume.name);
                Settings::for_nobody()
            });
            self.keep_settings(volume.id, settings);
        }
        unreadable
    }

    /// Sets what users want of a volume, as [`update`](Self::update) does.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub async fn set(&self, name: &str, settings: Settings) -> Result<VolumeInfo, VolumeError> {
        self.update(name, |now| *now = settings).await
    }

    /// Changes what users want of a volume; durable when this returns. Writes are refused or taken, and limits hold, at once;
    /// from where clients may come is asked of those that attach from now on. Changes of the same moment all count.
    ///
    /// # Errors
    /// No such volume, [`VolumeError::BadNetwork`] for too many networks, [`VolumeError::BadLimit`], and what the store says.
    pub async fn update(
        &self,
        name: &str,
        change: impl FnOnce(&mut Settings),
    ) -> Result<VolumeInfo, VolumeError> {
        let _turn = self.settings_turn().await;
        let info = self.get(name)?;
        let mut settings = self.settings(info.id);
        change(&mut settings);
        if settings.allow.len() > ALLOW_MAX {
            return Err(VolumeError::BadNetwork);
        }
        if !settings.limits.is_valid() {
            return Err(VolumeError::BadLimit);
        }
        self.record_settings(info.id, &settings).await?;
        // It may have been deleted meanwhile; then nobody else takes the record away.
        let Some(info) = self.store().volume(info.id) else {
            let _ = self.store().set_record(&key(info.id), None).await;
            return Err(VolumeError::NoVolume);
        };
        self.keep_settings(info.id, settings);
        Ok(info)
    }

    async fn record_settings(&self, id: VolumeId, settings: &Settings) -> Result<(), StoreError> {
        let text = settings.encode();
        let value = (!text.is_empty()).then_some(text.as_bytes());
        self.store().set_record(&key(id), value).await
    }

    /// Lets a clone's clients come from where those of its origin may, or undoes the clone.
    pub(crate) async fn inherit(&self, id: VolumeId, origin: Settings) -> Result<(), VolumeError> {
        if origin.allow.is_empty() {
            return Ok(());
        }
        let settings = Settings {
            allow: origin.allow,
            ..Settings::default()
        };
        // Before anybody else has a turn.
        self.keep_settings(id, settings.clone());
        if let Err(error) = self.record_settings(id, &settings).await {
            // It would be open to everybody after a restart.
            let _ = self.store().delete_volume(id).await;
            self.take_settings(id);
            return Err(error.into());
        }
        Ok(())
    }

    /// Forgets the settings of a volume that is gone. Should this fail, [`load`](Self::load) does it.
    pub(crate) async fn forget_settings(&self, id: VolumeId) {
        let _turn = self.settings_turn().await;
        if self.take_settings(id) {
            let _ = self.store().set_record(&key(id), None).await;
        }
    }
}

fn key(id: VolumeId) -> String {
    format!("{KEY}{}", id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn networks_contain_what_they_say() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7/31", "192.0.2.6", "192.0.2.8"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::10.1.2.3"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("2001:db8::/32", "2001:db8:1::9", "2001:db9::"),
            ("::/0", "2001:db8::", "1.2.3.4"),
            ("::1", "::1", "::2"),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{network}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{network}");
        }
        assert_eq!(
            "10.1.2.3/8".parse::<Network>().unwrap().to_string(),
            "10.0.0.0/8"
        );
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "10.0.0.0/",
            "::/129",
            "::ffff:10.0.0.0/95",
            "ten",
            "10.0.0.0/-1",
        ] {
            assert_eq!(
                bad.parse::<Network>(),
                Err(VolumeError::BadNetwork),
                "{bad}"
            );
        }
    }

    #[test]
    fn settings_survive_as_a_record() {
        let network = |text: &str| text.parse::<Network>().unwrap();
        let longest = "1111:2222:3333:4444:5555:6666:7777:8888/128";
        let full = Settings {
            read_only: true,
            allow: alloc::vec![network(longest); ALLOW_MAX],
            limits: Limits {
                iops: Some(Limits::IOPS.1),
                rate_bytes: Some(Limits::RATE_BYTES.1),
            },
        };
        assert!(full.encode().len() <= 3072);
        for settings in [Settings::default(), full] {
            let text = settings.encode();
            assert_eq!(Settings::decode(text.as_bytes()), Some(settings));
        }
        for bad in [
            "read-write\n",
            "allow\n",
            "allow ten\n",
            "iops 0\n",
            "rate -1\n",
            "\u{0}",
        ] {
            assert_eq!(Settings::decode(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn nobody_named_means_everybody() {
        let peer = "192.0.2.1".parse().unwrap();
        let mut settings = Settings::default();
        assert!(settings.admits(peer));
        settings.allow.push("10.0.0.0/8".parse().unwrap());
        assert!(!settings.admits(peer));
        settings.allow.push("192.0.2.0/24".parse().unwrap());
        assert!(settings.admits(peer));
    }
}
