#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The dropbp authors
# SPDX-License-Identifier: MIT

# Makes the archive of a release and its bill of materials.
set -euo pipefail

usage() {
  cat <<'END'
Usage: cmake/release.sh [--commit COMMIT] DIR

Writes into DIR, from what is committed:
  dropbp-VERSION.tar.gz          the sources
  dropbp-VERSION.spdx.json       the bill of materials (SPDX 2.3)
  dropbp-VERSION.sha256          checksums of both, for sha256sum --check

The bytes depend on the commit alone: whoever runs this on another day, in another folder or as
another user gets the same files (with the same version of gzip). Needs git, gzip and sha256sum.

Exit codes: 0 done, 1 git or the disk failed, 2 wrong usage.
END
}

commit=HEAD
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --commit)
      if [ $# -lt 2 ]; then
        echo "release.sh: --commit needs a commit; see --help." >&2
        exit 2
      fi
      commit=$2
      shift
      ;;
    -*)
      echo "release.sh: unknown option '$1'; see --help." >&2
      exit 2
      ;;
    *) break ;;
  esac
  shift
done
if [ $# -ne 1 ]; then
  usage >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export LC_ALL=C TZ=UTC0

commit=$(git rev-parse --verify "$commit^{commit}")
number() {
  git show "$commit:include/dropbp/version.hpp" | sed -n "s/^#define DROPBP_VERSION_$1 //p"
}
version=$(number MAJOR).$(number MINOR).$(number PATCH)
name=dropbp-$version
# An archive carries the time of the commit, and fixed owners and modes; gzip -n adds no time.
git -c core.autocrlf=false -c tar.umask=0022 archive --format=tar --prefix="$name/" "$commit" |
  gzip -n -9 >"$out/$name.tar.gz"
sum() { sha256sum "$1" | cut -d' ' -f1; }

# What a user's program gets from others. The core needs nothing; each other part is used only where
# the user's build finds it.
optional=(
  "Eigen|MPL-2.0|dropbp::ops and the interop header for Eigen"
  "CUDA-Toolkit|LicenseRef-NVIDIA|dropbp::cuda"
  "cuDNN|LicenseRef-NVIDIA|attention in dropbp::cuda"
  "libtorch|BSD-3-Clause|the interop header for libtorch"
  "Armadillo|Apache-2.0|the interop header for Armadillo"
  "fmt|MIT|programs in examples/"
  "CLI11|BSD-3-Clause|programs in examples/"
  "nlohmann-json|MIT|programs in examples/"
  "PCRE2|BSD-3-Clause|programs in examples/"
  "utf8proc|MIT|programs in examples/"
  "dlib|BSL-1.0|one example"
  "Catch2|BSL-1.0|tests"
)
{
  cat <<END
{
  "spdxVersion": "SPDX-2.3",
  "dataLicense": "CC0-1.0",
  "SPDXID": "SPDXRef-DOCUMENT",
  "name": "$name",
  "documentNamespace": "urn:dropbp:spdx:$version:$commit",
  "creationInfo": {
    "created": "$(git show -s --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd "$commit")",
    "creators": ["Tool: dropbp-cmake-release.sh"]
  },
  "packages": [
    {
      "SPDXID": "SPDXRef-dropbp",
      "name": "dropbp",
      "versionInfo": "$version",
      "packageFileName": "$name.tar.gz",
      "checksums": [{"algorithm": "SHA256", "checksumValue": "$(sum "$out/$name.tar.gz")"}],
      "downloadLocation": "NOASSERTION",
      "filesAnalyzed": false,
      "licenseConcluded": "MIT",
      "licenseDeclared": "MIT",
      "copyrightText": "Copyright (c) 2026 The dropbp authors"
    }
END
  for line in "${optional[@]}"; do
    IFS='|' read -r package license use <<<"$line"
    cat <<END
    ,{
      "SPDXID": "SPDXRef-$package",
      "name": "$package",
      "downloadLocation": "NOASSERTION",
      "filesAnalyzed": false,
      "licenseConcluded": "NOASSERTION",
      "licenseDeclared": "$license",
      "comment": "not in the archive; for $use"
    }
END
  done
  cat <<'END'
  ],
  "hasExtractedLicensingInfos": [
    {
      "licenseId": "LicenseRef-NVIDIA",
      "extractedText": "The licence agreement that NVIDIA distributes with the software"
    }
  ],
  "relationships": [
    {
      "spdxElementId": "SPDXRef-DOCUMENT",
      "relationshipType": "DESCRIBES",
      "relatedSpdxElement": "SPDXRef-dropbp"
    }
END
  for line in "${optional[@]}"; do
    IFS='|' read -r package license use <<<"$line"
    kind=OPTIONAL_DEPENDENCY_OF
    if [ "$use" = tests ]; then kind=TEST_DEPENDENCY_OF; fi
    cat <<END
    ,{
      "spdxElementId": "SPDXRef-$package",
      "relationshipType": "$kind",
      "relatedSpdxElement": "SPDXRef-dropbp"
    }
END
  done
  printf '  ]\n}\n'
} >"$out/$name.spdx.json"
(cd "$out" && sha256sum "$name.tar.gz" "$name.spdx.json" >"$name.sha256")
echo "$out/$name.tar.gz"
