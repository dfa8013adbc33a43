# bash completion for blockgate; `source <(blockgate completion bash)`
_blockgate_completion() {
    # A name such as iqn.2026-01.org.example:web is one word here, though bash takes it for three:
    # where it breaks words at colons it puts in what follows the last one.
    local line=${COMP_LINE:0:COMP_POINT} words word
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]}
    local IFS=$'\n'
    mapfile -t COMPREPLY < <(env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        _BLOCKGATE_COMPLETE=complete_bash "$1" 2>/dev/null)
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
    fi
    return 0
}
complete -o default -F _blockgate_completion blockgate
