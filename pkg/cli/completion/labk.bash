# bash completion of labk: eval "$(labk completion bash)", in ~/.bashrc for good
_labk() {
	local line
	COMPREPLY=()
	while IFS= read -r line; do
		case $line in
		'' | :*) ;; # kubectl's last line is a number
		*) COMPREPLY+=("${line%%$'\t'*}") ;;
		esac
	done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _labk labk
