# bash completion for blockgate; `source <(blockgate completion bash)`
_blockgate_completion() {
    local IFS=$'\n'
    # A name such as pool/vol:1 is one word here, whatever COMP_WORDBREAKS holds.
    mapfile -t COMPREPLY < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        _BLOCKGATE_COMPLETE=complete_bash "$1" 2>/dev/null)
    return 0
}
complete -o default -F _blockgate_completion blockgate
