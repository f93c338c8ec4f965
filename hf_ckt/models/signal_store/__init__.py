# SPDX-License-Identifier: Apache-2.0
"""
What teachers said of a dataset, kept in files: looked up by document in place of running them.

A store is a folder. `facts.json` says who taught what, and is written first; each shard is `shard-00000.safetensors` with
what is said of it beside it, `shard-00000.json`; heads lie in `head-*.safetensors`; `index.json`, written last, makes it
complete. Every file is written aside and renamed, and has a checksum.

May enter: reading and writing of stored signals, and how they are found and encoded.
"""
