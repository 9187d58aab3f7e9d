# Copyright 2026 The optimum-neuronmm authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The local part of libneuronxla's compile cache API, as far as optimum/neuron/cache/hub_cache.py uses it."""

import os
from pathlib import Path


class CacheUrl:
    def __init__(self, url, url_type="fs"):
        self.url, self.url_type = url, url_type

    @staticmethod
    def get_cache_url(cache_dir=None):
        return CacheUrl(cache_dir or os.environ.get("NEURON_COMPILE_CACHE_URL", "/var/tmp/neuron-compile-cache"))

    def is_s3(self):
        return False


class CompileCache:
    def __init__(self, cache_url):
        self.cache_url = cache_url


class CompileCacheFs(CompileCache):
    def __init__(self, cache_url):
        super().__init__(cache_url)
        from neuronxcc import __version__ as version

        self.cache_path = os.path.join(cache_url.url, f"neuronxcc-{version}")

    def get_cache_dir_with_cache_key(self, key):
        return os.path.join(self.cache_path, key)

    def exists(self, path):
        return os.path.exists(path)

    def upload_string_to_file(self, path, data):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(data)


class CompileCacheS3(CompileCache):
    pass


def create_compile_cache(cache_url):
    return CompileCacheFs(cache_url)
