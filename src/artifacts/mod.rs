//! Model folders in, result folders out: bytes and digests, no tensors.
