int nydus_abi(void) { return 1; }
