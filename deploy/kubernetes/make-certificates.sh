#!/bin/sh
# An authority, a certificate for the nodes, one for clients, and the cluster's secret, with openssl:
#
#     deploy/kubernetes/make-certificates.sh DIRECTORY
#
# What is there already is kept, so a second call makes only what is missing: to renew a certificate,
# remove it and call again. ca.key signs everything: keep it off the cluster. The commands that make
# the Kubernetes secrets of these files are printed at the end; nothing is sent anywhere.
set -eu
umask 077

directory=${1:?give a directory for the files}
days=${DAYS:-825}
namespace=januskv
names="DNS:localhost,IP:127.0.0.1"
names="$names,DNS:januskv,DNS:januskv.$namespace,DNS:januskv.$namespace.svc"
names="$names,DNS:januskv.$namespace.svc.cluster.local"
for number in 0 1 2; do
    names="$names,DNS:januskv-$number.januskv-peers.$namespace.svc"
done

mkdir -p "$directory"
cd "$directory"

if [ ! -e ca.crt ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
        -subj "/CN=JanusKV authority" -keyout ca.key -out ca.crt \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
        -addext "keyUsage=critical,keyCertSign,cRLSign"
fi

# sign NAME SUBJECT EXTENSIONS
sign() {
    if [ -e "$1.crt" ]; then return; fi
    printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
        "subjectKeyIdentifier=hash" "authorityKeyIdentifier=keyid" "$3" >"$1.extensions"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$2" \
        -keyout "$1.key" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" \
        -extfile "$1.extensions" -out "$1.crt"
    rm "$1.csr" "$1.extensions"
}

# Nodes are servers to clients, and both to each other.
sign node januskv "extendedKeyUsage=serverAuth,clientAuth
subjectAltName=$names"
sign client januskv-client "extendedKeyUsage=clientAuth"

if [ ! -e cluster-secret ]; then
    openssl rand -hex 32 >cluster-secret
fi

cat <<END

Made in $(pwd). Hand them to the cluster:

    kubectl create namespace $namespace
    kubectl -n $namespace create secret generic januskv-tls \\
        --from-file=tls.crt=node.crt --from-file=tls.key=node.key --from-file=ca.crt=ca.crt
    kubectl -n $namespace create secret generic januskv-cluster --from-file=cluster-secret
END
